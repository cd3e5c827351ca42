import type { RedisPart, RedisRecord, Stream } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { accepted, bytesOf, type Connection, textOf } from "./connection.ts";
import { timeOf } from "./deployment.ts";
import { isSelected } from "./key-copy.ts";
import { interimName, type KeyRestoreOptions } from "./key-restore.ts";
import { endsKey, hasExpired, type PlacedRecord, recordBatches } from "./records.ts";
import { ValueDigest } from "./value-digest.ts";
import { lengthCommands, readValue } from "./value-reader.ts";
import { asBuffer } from "./value-writer.ts";

/** Interim values of the comparison vanish by themselves should nobody be left to remove them. */
const interimMs = 600_000;
/**
 * Without PEXPIRETIME an expiry is the sum of two readings, the server's time and what is left, between which a busy server may
 * pause: once when the key was copied, once when it is compared. More than 2 ms were seen on a loaded machine.
 */
const toleranceMs = 1000;

/**
 * Compares the keys of one stream with those in the store, by their values: two dumps of one value may differ, since tables have
 * no order. Where they do, the dump of the backup is restored beside the key, which the server lays out as it did for the key,
 * and dumped again; where that differs too, both are read and compared element by element.
 */
export class KeyComparison {
  readonly #options: KeyRestoreOptions;
  #digest: ValueDigest | undefined;

  constructor(options: KeyRestoreOptions) {
    this.#options = options;
  }

  async compare(stream: Stream): Promise<void> {
    const { source, signal, plan, database, note } = this.#options;
    const skipped = database.skippedKeys.get(stream);
    for await (const batch of recordBatches(source, stream, signal)) {
      const whole: PlacedRecord[] = [];
      for (const placed of batch) {
        const { record, index } = placed;
        if (!isSelected(record.key, plan.patterns)) continue;
        if (record.part !== undefined) await this.#comparePart(record, record.part, skipped?.has(index) === true);
        else if (skipped?.has(index) !== true) whole.push(placed);
      }
      await this.#compareWhole(whole);
      note(
        batch.length,
        batch.reduce((sum, { bytes }) => sum + bytes, 0),
      );
    }
  }

  async #compareWhole(records: readonly PlacedRecord[]): Promise<void> {
    const { database, plan } = this.#options;
    const items = records.map(({ record }) => {
      const key = plan.renames.target(record.key);
      return { key, commands: [["TIME"] as const, ["DUMP", key] as const, this.#expiryCommand(key)] };
    });
    const replies = await database.router.run(items);
    const unlike: { record: RedisRecord; dump: Buffer }[] = [];
    for (const [index, { record }] of records.entries()) {
      const [time, dump, expiry] = replies[index] ?? [];
      const value = accepted(dump);
      if (value === null) this.#missing(record, timeOf(time));
      else if (!this.#sameExpiry(record, timeOf(time), Number(accepted(expiry)))) database.different++;
      else if (bytesOf(value).equals(record.dump)) database.equalKeys++;
      else unlike.push({ record, dump: bytesOf(value) });
    }
    await this.#compareAgain(unlike);
  }

  /** Restores the dumps of the backup beside the keys, and compares what the server makes of them. */
  async #compareAgain(unlike: readonly { readonly record: RedisRecord; readonly dump: Buffer }[]): Promise<void> {
    const { database, plan } = this.#options;
    const items = unlike.map(({ record }) => {
      const key = interimName(plan.renames.target(record.key), plan.deployment.isCluster);
      const restore = ["RESTORE", key, interimMs, asBuffer(record.dump), "REPLACE"] as const;
      return { key, commands: [restore, ["DUMP", key] as const, ["UNLINK", key] as const] };
    });
    const replies = await database.router.run(items);
    for (const [index, { record, dump }] of unlike.entries()) {
      const [restored, again] = replies[index] ?? [];
      accepted(restored);
      if (bytesOf(again).equals(dump) || (await this.#sameElements(record))) database.equalKeys++;
      else database.different++;
    }
  }

  async #sameElements(record: RedisRecord): Promise<boolean> {
    const { database, plan } = this.#options;
    const key = plan.renames.target(record.key);
    const interim = interimName(key, plan.deployment.isCluster);
    return database.router.reading(key, async (connection) => {
      try {
        await connection.one("RESTORE", interim, interimMs, asBuffer(record.dump), "REPLACE");
        const [one, other] = [await this.#digestOf(connection, key), await this.#digestOf(connection, interim)];
        return one !== undefined && one === other;
      } finally {
        await connection.one("UNLINK", interim);
      }
    });
  }

  async #comparePart(record: RedisRecord, part: RedisPart, isSkipped: boolean): Promise<void> {
    if (part.number === 1) this.#digest = new ValueDigest(part.type);
    this.#digest?.add(part);
    if (!endsKey(record)) return;
    const expected = this.#digest?.value();
    this.#digest = undefined;
    if (isSkipped) return;
    const { database, plan } = this.#options;
    const key = plan.renames.target(record.key);
    await database.router.reading(key, async (connection) => {
      const [time, expiry] = await connection.run([["TIME"], this.#expiryCommand(key)]);
      const expires = Number(accepted(expiry));
      if (expires === -2) return this.#missing(record, timeOf(time));
      const same = this.#sameExpiry(record, timeOf(time), expires);
      if (same && (await this.#digestOf(connection, key)) === expected) database.equalKeys++;
      else database.different++;
    });
  }

  /** Undefined for what has no digest: a type of a module. */
  async #digestOf(connection: Connection, key: Buffer): Promise<string | undefined> {
    const type = textOf(await connection.one("TYPE", key));
    const lengthCommand = lengthCommands[type];
    if (lengthCommand === undefined) return undefined;
    const [length, bytes] = await connection.run([
      [lengthCommand, key],
      ["MEMORY", "USAGE", key],
    ]);
    const digest = new ValueDigest(type);
    const { facts } = this.#options.plan.deployment;
    const size = { bytes: Number(accepted(bytes)), length: Number(accepted(length)) };
    for await (const part of readValue({ connection, key, type, ...size, facts })) digest.add(part);
    return digest.value();
  }

  #expiryCommand(key: Buffer) {
    return [this.#options.plan.deployment.facts.hasExpireTime ? "PEXPIRETIME" : "PTTL", key] as const;
  }

  #sameExpiry({ expireTimeMs }: RedisRecord, now: number, expiry: number): boolean {
    if (expiry < 0 || expireTimeMs === 0n) return expiry < 0 && expireTimeMs === 0n;
    if (this.#options.plan.deployment.facts.hasExpireTime) return BigInt(expiry) === expireTimeMs;
    return Math.abs(now + expiry - Number(expireTimeMs)) <= toleranceMs;
  }

  #missing(record: RedisRecord, now: number): void {
    const { database } = this.#options;
    // It has expired since it was written.
    if (hasExpired(record, now)) database.skipped++;
    else database.missing++;
  }
}

import { randomBytes } from "node:crypto";

import { ConflictPolicy } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import type { RedisPart, RedisRecord, Stream } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import type { RecordSource } from "../contracts.ts";
import { accepted, type Command, listOf } from "./connection.ts";
import { isSelected } from "./key-copy.ts";
import { hasExpired, type PlacedRecord, recordBatches } from "./records.ts";
import { RefusedReply, type Reply } from "./reply-parser.ts";
import { conflict, type KeyPlan, refused } from "./restore-plan.ts";
import type { RestoredDatabase } from "./restored-database.ts";
import { nameInSlot } from "./slots.ts";
import { asBuffer, partCommands } from "./value-writer.ts";

/** Values that are put together have an interim name, and vanish by themselves should nobody be left to remove them. */
const interimMs = 3_600_000;

/** An interim name beside a key, which a cluster can rename to it. */
export function interimName(key: Buffer, isCluster: boolean): Buffer {
  const prefix = `lucid_restore:${randomBytes(8).toString("hex")}`;
  return isCluster ? nameInSlot(prefix, key) : Buffer.from(prefix);
}

/** What keys are written with. */
export interface KeyRestoreOptions {
  readonly plan: KeyPlan;
  readonly database: RestoredDatabase;
  readonly source: RecordSource;
  readonly signal: AbortSignal;
  /** The server's time, in milliseconds since 1970. */
  readonly now: () => number;
  /** Told of records that are done. */
  readonly note: (records: number, bytes: number) => void;
}

/** A value that is put together. */
interface Interim {
  readonly target: Buffer;
  readonly name: Buffer;
  /** Whether it is passed over, since its key is there. */
  readonly isSkipped: boolean;
}

/** Writes the keys of one stream. A value that is not complete is in `database.interims` until it is removed. */
export class KeyRestore {
  readonly #options: KeyRestoreOptions;
  #interim: Interim | undefined;

  constructor(options: KeyRestoreOptions) {
    this.#options = options;
  }

  async restore(stream: Stream): Promise<void> {
    const { source, signal, plan, note } = this.#options;
    for await (const batch of recordBatches(source, stream, signal)) {
      let whole: PlacedRecord[] = [];
      for (const placed of batch) {
        const { record } = placed;
        if (!isSelected(record.key, plan.patterns)) continue;
        if (record.part === undefined) {
          whole.push(placed);
          continue;
        }
        await this.#writeWhole(stream, whole);
        whole = [];
        await this.#writePart(stream, placed, record.part);
      }
      await this.#writeWhole(stream, whole);
      note(
        batch.length,
        batch.reduce((sum, { bytes }) => sum + bytes, 0),
      );
    }
    await this.#giveUp();
  }

  get #replaces(): boolean {
    const { policy } = this.#options.plan;
    return policy === ConflictPolicy.DROP || policy === ConflictPolicy.OVERWRITE;
  }

  #target(record: RedisRecord): Buffer {
    return this.#options.plan.renames.target(record.key);
  }

  #skip(stream: Stream, index: number): void {
    const { database } = this.#options;
    database.skipped++;
    database.skippedKeys.get(stream)?.add(index);
  }

  async #writeWhole(stream: Stream, records: readonly PlacedRecord[]): Promise<void> {
    if (records.length === 0) return;
    await this.#giveUp();
    const { database, now } = this.#options;
    const time = now();
    const alive: PlacedRecord[] = [];
    for (const placed of records) {
      if (hasExpired(placed.record, time)) this.#skip(stream, placed.index);
      else alive.push(placed);
    }
    const items = alive.map(({ record }) => {
      const key = this.#target(record);
      const options = [...(this.#replaces ? ["REPLACE"] : []), ...(record.expireTimeMs === 0n ? [] : ["ABSTTL"])];
      const restore: Command = ["RESTORE", key, String(record.expireTimeMs), asBuffer(record.dump), ...options];
      return { key, commands: [restore] };
    });
    const replies = await database.router.run(items);
    for (const [place, { index }] of alive.entries()) {
      const reply = replies[place]?.[0];
      if (reply instanceof RefusedReply && reply.code === "BUSYKEY") this.#found(stream, index);
      else {
        this.#require(reply);
        database.written++;
      }
    }
  }

  /** A key is there: to be kept, or come since the restore began. */
  #found(stream: Stream, index: number): void {
    if (this.#options.plan.policy !== ConflictPolicy.SKIP) throw conflict(1, []);
    this.#skip(stream, index);
  }

  async #writePart(stream: Stream, { record, index }: PlacedRecord, part: RedisPart): Promise<void> {
    if (part.number === 1) await this.#begin(record);
    const interim = this.#interim;
    if (interim === undefined) throw new Error("A part of a Redis value stands without those before it");
    if (!interim.isSkipped) await this.#append(interim, part);
    if (!part.last) return;
    const { database, now } = this.#options;
    if (interim.isSkipped || hasExpired(record, now())) this.#skip(stream, index);
    else if (await this.#publish(interim, record)) {
      database.written++;
      database.interims.delete(interim.name);
      this.#interim = undefined;
    } else this.#found(stream, index);
    await this.#giveUp();
  }

  async #begin(record: RedisRecord): Promise<void> {
    await this.#giveUp();
    const { database, plan } = this.#options;
    const target = this.#target(record);
    const name = interimName(target, plan.deployment.isCluster);
    const [replies] = await database.router.run([{ key: target, commands: [["EXISTS", target]] }]);
    const isSkipped = plan.policy === ConflictPolicy.SKIP && accepted(replies?.[0]) === 1;
    this.#interim = { target, name, isSkipped };
    if (!isSkipped) database.interims.add(name);
  }

  async #append({ name }: Interim, part: RedisPart): Promise<void> {
    const commands = partCommands(name, part, this.#options.plan.deployment.facts);
    if (commands.length === 0) return;
    // All or nothing, so that what is sent again where a slot moves is not there twice.
    await this.#transaction(name, [...commands, ["PEXPIRE", name, interimMs]]);
  }

  /** Gives a complete value its name and expiry in one step; false where the name is taken. */
  async #publish({ name, target }: Interim, { expireTimeMs }: RedisRecord): Promise<boolean> {
    const expiry: Command = expireTimeMs === 0n ? ["PERSIST", name] : ["PEXPIREAT", name, String(expireTimeMs)];
    const results = await this.#transaction(name, [expiry, [this.#replaces ? "RENAME" : "RENAMENX", name, target]]);
    return results.at(-1) !== 0;
  }

  async #transaction(key: Buffer, commands: readonly Command[]): Promise<Reply[]> {
    const [replies] = await this.#options.database.router.run([{ key, commands: [["MULTI"], ...commands, ["EXEC"]] }]);
    for (const reply of replies ?? []) this.#require(reply);
    const results = listOf(replies?.at(-1));
    for (const result of results) this.#require(result);
    return results;
  }

  async #giveUp(): Promise<void> {
    const interim = this.#interim;
    this.#interim = undefined;
    if (interim === undefined || interim.isSkipped) return;
    const { database } = this.#options;
    await database.router.run([{ key: interim.name, commands: [["UNLINK", interim.name]] }]);
    database.interims.delete(interim.name);
  }

  #require(reply: Reply | undefined): void {
    if (!(reply instanceof RefusedReply)) return;
    const { database, plan } = this.#options;
    if (!/Bad data format|DUMP payload version/.test(reply.message)) throw reply;
    const { rdbVersion, serverVersion } = database.description;
    throw refused("The Redis server cannot read a value of the backup", {
      unit: database.unit.name,
      backup_version: serverVersion,
      server_version: plan.deployment.facts.version,
      rdb_version: String(rdbVersion),
    });
  }
}

import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";

import { RedisRecordSchema } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail } from "../../errors.ts";
import type { StreamWriter } from "../contracts.ts";
import { accepted, bytesOf, type Command, type Connection, listOf, textOf } from "./connection.ts";
import { type ServerFacts, timeOf } from "./deployment.ts";
import { globMatches } from "./glob.ts";
import { RecentKeys } from "./recent-keys.ts";
import { RefusedReply, type Reply } from "./reply-parser.ts";
import { lengthCommands, NotInParts, readValue } from "./value-reader.ts";

/** Buckets that one SCAN goes through: a millisecond of the server's time. */
const scanCount = 1000;
/** Values are dumped together up to these bytes of the server's memory. */
const batchBytes = 4 * 1024 * 1024;
/** Values are dumped in one transaction, which keeps others waiting, up to these bytes and keys. */
const transactionBytes = 64 * 1024;
const transactionKeys = 64;
/** How often a large value is read in parts before it is dumped whole: each time it was changed meanwhile. */
const partAttempts = 3;

/** What the keys of one database on one server are copied with. */
export interface CopyOptions {
  /** Used for nothing else: it watches keys. */
  readonly connection: Connection;
  readonly facts: ServerFacts;
  readonly isCluster: boolean;
  /** A key that one of them matches is copied; all are where there is none. */
  readonly patterns: readonly Buffer[];
  /** Whether a key is left out all the same. */
  readonly isDerived: (key: Uint8Array) => boolean;
  readonly writer: StreamWriter;
  /** Values that take more memory are copied in parts. */
  readonly largeValueBytes: number;
  /** Told of keys and bytes that are copied. */
  readonly note: (keys: number, bytes: number) => void;
}

/** What was copied. */
export interface Copied {
  keys: number;
  records: number;
  bytes: number;
  /** Highest RDB version of the dumps. */
  rdbVersion: number;
}

interface SizedKey {
  readonly key: Buffer;
  readonly bytes: number;
}

interface DumpedKey {
  readonly key: Buffer;
  readonly expireTimeMs: bigint;
  readonly dump: Buffer;
}

/**
 * Copies the keys that SCAN finds. A key that is there all the time is copied exactly once, one that comes or goes meanwhile at
 * most once. Value and expiry of a key are of one moment.
 */
export async function copyKeys(options: CopyOptions): Promise<Copied> {
  const copied: Copied = { keys: 0, records: 0, bytes: 0, rdbVersion: 0 };
  const copy = new KeyCopy(options, copied);
  const seen = new RecentKeys();
  const match = options.patterns.length === 1 ? ["MATCH", ...options.patterns] : [];
  for (let cursor = "0"; ;) {
    const reply = await options.connection.one("SCAN", cursor, ...match, "COUNT", scanCount);
    const [next, found] = listOf(reply);
    cursor = textOf(next);
    const keys = listOf(found)
      .map(bytesOf)
      .filter((key) => isSelected(key, options.patterns) && !options.isDerived(key) && seen.add(key));
    await copy.copy(keys);
    if (cursor === "0") return copied;
  }
}

/** Whether a key is selected by patterns: all are, where there is none. */
export function isSelected(key: Uint8Array, patterns: readonly Uint8Array[]): boolean {
  return patterns.length === 0 || patterns.some((pattern) => globMatches(pattern, key));
}

class KeyCopy {
  readonly #options: CopyOptions;
  readonly #copied: Copied;

  constructor(options: CopyOptions, copied: Copied) {
    this.#options = options;
    this.#copied = copied;
  }

  async copy(keys: readonly Buffer[]): Promise<void> {
    let batch: SizedKey[] = [];
    let bytes = 0;
    for (const sized of await this.#sizes(keys)) {
      if (sized.bytes > this.#options.largeValueBytes) {
        await this.#copyLarge(sized);
        continue;
      }
      if (bytes + sized.bytes > batchBytes && batch.length > 0) {
        await this.#write(await this.#dump(batch));
        [batch, bytes] = [[], 0];
      }
      batch.push(sized);
      bytes += sized.bytes;
    }
    await this.#write(await this.#dump(batch));
  }

  /** The memory that the values take; without keys that have vanished. */
  async #sizes(keys: readonly Buffer[]): Promise<SizedKey[]> {
    const replies = await this.#options.connection.run(keys.map((key) => ["MEMORY", "USAGE", key] as const));
    return keys.flatMap((key, index) => {
      const bytes = settled(replies[index]);
      return typeof bytes === "number" ? [{ key, bytes }] : [];
    });
  }

  async #dump(keys: readonly SizedKey[]): Promise<DumpedKey[]> {
    const { connection, facts } = this.#options;
    const groups = [...this.#transactions(keys)];
    const commands: Command[] = [];
    for (const group of groups) {
      commands.push(["MULTI"]);
      if (!facts.hasExpireTime) commands.push(["TIME"]);
      for (const { key } of group) commands.push(["DUMP", key], [facts.hasExpireTime ? "PEXPIRETIME" : "PTTL", key]);
      commands.push(["EXEC"]);
    }
    const replies = await connection.run(commands);
    const dumped: DumpedKey[] = [];
    let at = 0;
    for (const group of groups) {
      const extra = facts.hasExpireTime ? 0 : 1;
      at += 2 + extra + 2 * group.length;
      const results = listOf(settled(replies[at - 1]));
      const now = extra === 1 ? timeOf(results[0]) : 0;
      for (const [index, { key }] of group.entries()) {
        const dump = settled(results[extra + 2 * index]);
        const expires = Number(settled(results[extra + 2 * index + 1]));
        if (Buffer.isBuffer(dump)) dumped.push({ key, dump, expireTimeMs: expires < 0 ? 0n : BigInt(now + expires) });
      }
    }
    return dumped;
  }

  /** Keys whose values are dumped in one transaction: of a cluster one, since all of one must be of a slot. */
  *#transactions(keys: readonly SizedKey[]): Generator<SizedKey[]> {
    const mostKeys = this.#options.isCluster ? 1 : transactionKeys;
    let group: SizedKey[] = [];
    let bytes = 0;
    for (const sized of keys) {
      if (group.length === mostKeys || (bytes + sized.bytes > transactionBytes && group.length > 0)) {
        yield group;
        [group, bytes] = [[], 0];
      }
      group.push(sized);
      bytes += sized.bytes;
    }
    if (group.length > 0) yield group;
  }

  async #write(dumped: readonly DumpedKey[]): Promise<void> {
    if (dumped.length === 0) return;
    const records = dumped.map(recordOf);
    for (const { dump } of dumped) {
      this.#copied.rdbVersion = Math.max(this.#copied.rdbVersion, dump.readUInt16LE(dump.length - 10));
    }
    await this.#writeRecords(records, dumped.length);
  }

  async #writeRecords(records: readonly Uint8Array[], keys: number): Promise<void> {
    await this.#options.writer.write(records);
    let bytes = 0;
    for (const { byteLength } of records) bytes += byteLength;
    this.#copied.keys += keys;
    this.#copied.records += records.length;
    this.#copied.bytes += bytes;
    this.#options.note(keys, bytes);
  }

  async #copyLarge({ key, bytes }: SizedKey): Promise<void> {
    for (let attempt = 1; attempt <= partAttempts; attempt++) {
      const outcome = await this.#copyInParts({ key, bytes });
      if (outcome === "done") return;
      if (outcome === "whole") break;
    }
    await this.#write(await this.#dump([{ key, bytes }]));
  }

  /** The key is watched from the first to the last part, so that parts of a value that was changed meanwhile do not count. */
  async #copyInParts({ key, bytes }: SizedKey): Promise<"done" | "changed" | "whole"> {
    const { connection, facts } = this.#options;
    const [watched, told] = await connection.run([
      ["WATCH", key],
      ["TYPE", key],
    ]);
    settled(watched);
    const type = textOf(settled(told));
    const lengthCommand = lengthCommands[type];
    const read = lengthCommand === undefined ? undefined : await this.#writeParts({ key, bytes }, type, lengthCommand);
    if (lengthCommand === undefined || read === undefined) {
      await connection.one("UNWATCH");
      return type === "none" ? "done" : "whole"; // none: it has vanished
    }
    const closing = await connection.run([
      ["MULTI"],
      ["TIME"],
      [facts.hasExpireTime ? "PEXPIRETIME" : "PTTL", key],
      [lengthCommand, key],
      ["EXEC"],
    ]);
    const results = settled(closing.at(-1));
    if (results === null) return "changed";
    const [time, expires, length] = listOf(results);
    // A table that was being rebuilt may have returned an element twice.
    if (Number(settled(length)) !== read.elements) return "changed";
    const expiry = Number(settled(expires));
    const now = facts.hasExpireTime ? 0 : timeOf(time);
    const part = { number: read.parts + 1, type, last: true };
    await this.#writeRecords([recordOf({ key, expireTimeMs: expiry < 0 ? 0n : BigInt(now + expiry), part })], 1);
    return "done";
  }

  /** Undefined where the value cannot be said in parts, or has become one of another type. */
  async #writeParts({ key, bytes }: SizedKey, type: string, lengthCommand: string) {
    const { connection, facts } = this.#options;
    const read = { parts: 0, elements: 0 };
    try {
      const length = Number(await connection.one(lengthCommand, key));
      // A stream can be without entries, and still take much memory for what is pending.
      if (length === 0) return undefined;
      for await (const part of readValue({ connection, key, type, bytes, length, facts })) {
        part.number = ++read.parts;
        read.elements += elementsIn(part);
        await this.#writeRecords([recordOf({ key, part })], 0);
      }
    } catch (error) {
      const anotherType = error instanceof RefusedReply && error.code === "WRONGTYPE";
      if (error instanceof NotInParts || anotherType) return undefined;
      throw error;
    }
    return read;
  }
}

function recordOf(record: MessageInitShape<typeof RedisRecordSchema>): Uint8Array {
  return toBinary(RedisRecordSchema, create(RedisRecordSchema, record));
}

/** What a part adds to the length of the value that it is of. */
function elementsIn({ type, elements, entries }: { type: string; elements: Uint8Array[]; entries: unknown[] }): number {
  if (type === "string") return elements[0]?.byteLength ?? 0;
  if (type === "stream") return entries.length;
  return type === "list" || type === "set" ? elements.length : elements.length / 2;
}

/** Slots of a cluster that move while it is read take keys with them, which then may have been missed. */
function settled(reply: Reply | undefined): Exclude<Reply, RefusedReply> {
  if (reply instanceof RefusedReply && ["MOVED", "ASK", "TRYAGAIN", "EXECABORT"].includes(reply.code)) {
    throw fail("BACKUP_SOURCE_CHANGED", "Slots of the Redis cluster were moved while it was read", {
      metadata: { store: "redis", server_code: reply.code },
    });
  }
  return accepted(reply);
}

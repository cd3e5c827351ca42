import { create, type MessageInitShape } from "@bufbuild/protobuf";

import {
  type RedisPart,
  RedisPartSchema,
  type RedisStreamStateSchema,
} from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { accepted, bytesOf, type Connection, listOf, textOf } from "./connection.ts";
import { type ServerFacts, timeOf } from "./deployment.ts";
import type { Reply } from "./reply-parser.ts";

/** About as many bytes are asked for at once. */
const pieceBytes = 1024 * 1024;
/** Elements that are asked for at once, at most; the server answers nobody else meanwhile. */
const pieceElements = 2000;

/** How many elements of a value there are: the command that tells, for each type that can be read in parts. */
export const lengthCommands: Readonly<Record<string, string>> = {
  string: "STRLEN",
  list: "LLEN",
  set: "SCARD",
  zset: "ZCARD",
  hash: "HLEN",
  stream: "XLEN",
};

/** A value of which something is pending that no parts can say: it has to be dumped whole. */
export class NotInParts extends Error {}

/** What a value is read with. */
export interface ReadOptions {
  readonly connection: Connection;
  readonly key: Buffer;
  readonly type: string;
  /** Bytes of memory that it takes, and number of its elements: what the size of the first piece is guessed from. */
  readonly bytes: number;
  readonly length: number;
  readonly facts: ServerFacts;
}

/**
 * Reads a value piece by piece: parts of a record without numbers. Whoever needs the value of one moment watches the key
 * meanwhile. Throws `NotInParts` for a stream of which a deleted entry is pending.
 */
export async function* readValue(options: ReadOptions): AsyncGenerator<RedisPart> {
  const { type } = options;
  switch (type) {
    case "string":
      return yield* readString(options);
    case "list":
      return yield* readList(options);
    case "set":
    case "zset":
    case "hash":
      return yield* readTable(options, type);
    case "stream":
      return yield* readStream(options);
    default:
      throw new NotInParts(`A ${type} cannot be read in parts`);
  }
}

/** How many elements make a piece, by those seen so far. */
class Pace {
  #bytes: number;
  #elements: number;

  constructor({ bytes, length }: Pick<ReadOptions, "bytes" | "length">) {
    this.#bytes = Math.max(bytes, 1);
    this.#elements = Math.max(length, 1);
  }

  get count(): number {
    const fitting = Math.floor((pieceBytes * this.#elements) / this.#bytes);
    return Math.min(Math.max(fitting, 1), pieceElements);
  }

  saw(pieces: readonly Uint8Array[], elements: number): void {
    this.#bytes += sizeOf(pieces);
    this.#elements += elements;
  }
}

function sizeOf(pieces: readonly Uint8Array[]): number {
  let bytes = 0;
  for (const { byteLength } of pieces) bytes += byteLength;
  return bytes;
}

async function* readString({ connection, key, type }: ReadOptions): AsyncGenerator<RedisPart> {
  for (let at = 0; ; at += pieceBytes) {
    const piece = bytesOf(await connection.one("GETRANGE", key, at, at + pieceBytes - 1));
    if (piece.length > 0) yield create(RedisPartSchema, { type, elements: [piece] });
    if (piece.length < pieceBytes) return;
  }
}

async function* readList(options: ReadOptions): AsyncGenerator<RedisPart> {
  const { connection, key, type } = options;
  const pace = new Pace(options);
  for (let at = 0; ;) {
    const { count } = pace;
    const elements = listOf(await connection.one("LRANGE", key, at, at + count - 1)).map(bytesOf);
    if (elements.length > 0) yield create(RedisPartSchema, { type, elements });
    if (elements.length < count) return;
    pace.saw(elements, elements.length);
    at += elements.length;
  }
}

const scanCommands = { set: "SSCAN", zset: "ZSCAN", hash: "HSCAN" } as const;

async function* readTable(options: ReadOptions, type: "set" | "zset" | "hash"): AsyncGenerator<RedisPart> {
  const { connection, key, facts } = options;
  const pace = new Pace(options);
  for (let cursor = "0"; ;) {
    const [next, found] = listOf(await connection.one(scanCommands[type], key, cursor, "COUNT", pace.count));
    const elements = listOf(found).map(bytesOf);
    cursor = textOf(next);
    if (elements.length > 0) {
      const expiring = type === "hash" && facts.hasFieldExpiry;
      const fieldExpireTimesMs = expiring ? await fieldExpireTimes(connection, key, elements) : [];
      yield create(RedisPartSchema, { type, elements, fieldExpireTimesMs });
      pace.saw(elements, type === "set" ? elements.length : elements.length / 2);
    }
    if (cursor === "0") return;
  }
}

/** When the fields expire; nothing where none does. */
async function fieldExpireTimes(connection: Connection, key: Buffer, elements: readonly Buffer[]): Promise<bigint[]> {
  const fields = elements.filter((_, index) => index % 2 === 0);
  const times = accepted(await connection.one("HPEXPIRETIME", key, "FIELDS", fields.length, ...fields));
  const known = Array.isArray(times) ? times.map((time) => (Number(time) > 0 ? BigInt(Number(time)) : 0n)) : [];
  return known.some((time) => time > 0n) ? known : [];
}

async function* readStream(options: ReadOptions): AsyncGenerator<RedisPart> {
  const { connection, key, type } = options;
  const pace = new Pace(options);
  for (let from = "-"; ;) {
    const { count } = pace;
    const found = listOf(await connection.one("XRANGE", key, from, "+", "COUNT", count));
    const entries = found.map((entry) => {
      const [id, fields] = listOf(entry);
      return { id: textOf(id), fields: listOf(fields).map(bytesOf) };
    });
    const last = entries.at(-1);
    if (last === undefined) break;
    yield create(RedisPartSchema, { type, entries });
    for (const { fields } of entries) pace.saw(fields, 1);
    if (entries.length < count) break;
    from = `(${last.id}`;
  }
  const stream = await streamState(connection, key);
  yield create(RedisPartSchema, { type, stream });
  for (const { name } of stream.groups) yield* readPending(options, name);
}

type StreamState = MessageInitShape<typeof RedisStreamStateSchema> & { groups: { name: Buffer }[] };

async function streamState(connection: Connection, key: Buffer): Promise<StreamState> {
  const [info, groups] = await connection.run([
    ["XINFO", "STREAM", key],
    ["XINFO", "GROUPS", key],
  ]);
  const fields = fieldsOf(info);
  const added = fields.get("entries-added");
  const maxDeleted = fields.get("max-deleted-entry-id");
  const states: Awaited<ReturnType<typeof groupState>>[] = [];
  for (const group of listOf(groups)) states.push(await groupState(connection, key, group));
  return {
    lastId: textOf(fields.get("last-generated-id")),
    ...(typeof added === "number" && { entriesAdded: BigInt(added) }),
    ...(maxDeleted !== undefined && { maxDeletedId: textOf(maxDeleted) }),
    groups: states,
  };
}

async function groupState(connection: Connection, key: Buffer, group: Reply) {
  const fields = fieldsOf(group);
  const name = bytesOf(fields.get("name"));
  const read = fields.get("entries-read");
  const consumers = listOf(await connection.one("XINFO", "CONSUMERS", key, name));
  return {
    name,
    lastDeliveredId: textOf(fields.get("last-delivered-id")),
    ...(typeof read === "number" && { entriesRead: BigInt(read) }),
    consumers: consumers.map((consumer) => bytesOf(fieldsOf(consumer).get("name"))),
  };
}

async function* readPending({ connection, key, type }: ReadOptions, group: Buffer): AsyncGenerator<RedisPart> {
  for (let from = "-"; ;) {
    const [time, rows] = await connection.run([["TIME"], ["XPENDING", key, group, from, "+", pieceElements]]);
    const now = timeOf(time);
    const pending = listOf(rows).map((row) => {
      const [id, consumer, idle, count] = listOf(row);
      return {
        group,
        consumer: bytesOf(consumer),
        id: textOf(id),
        deliveryTimeMs: BigInt(now - Number(idle)),
        deliveryCount: BigInt(Number(count)),
      };
    });
    const last = pending.at(-1);
    if (last === undefined) return;
    const entries = await connection.run(pending.map(({ id }) => ["XRANGE", key, id, id] as const));
    if (entries.some((found) => listOf(found).length === 0)) throw new NotInParts("A deleted entry is pending");
    yield create(RedisPartSchema, { type, pending });
    if (pending.length < pieceElements) return;
    from = `(${last.id}`;
  }
}

/** Names and values that follow each other, by name. */
function fieldsOf(reply: Reply | undefined): Map<string, Reply> {
  const items = listOf(reply);
  const fields = new Map<string, Reply>();
  for (let index = 0; index + 1 < items.length; index += 2) fields.set(textOf(items[index]), items[index + 1] ?? null);
  return fields;
}

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Cluster, Redis } from "ioredis";

import type { ContentFormat, GetKeyResponseSchema } from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { fail } from "../../errors.ts";
import { formOf, pageBytes, teller, wholeCharacters } from "./content.ts";
import { type KeyFacts, keyNotFound } from "./keys.ts";

/** A page of a value. */
interface ValuePage {
  readonly length: number;
  readonly value: NonNullable<MessageInitShape<typeof GetKeyResponseSchema>["value"]>;
  /** Where the next page begins: an index, a cursor or an id, by the type; undefined at the end. */
  readonly next: string | undefined;
}

/** What is read. */
export interface ValueRequest {
  readonly facts: KeyFacts;
  /** Where the page begins; undefined for the first one. */
  readonly from: string | undefined;
  /** Wanted elements. */
  readonly size: number;
  readonly format: ContentFormat;
}

type Client = Redis | Cluster;
type Reader = (client: Client, request: ValueRequest) => Promise<ValuePage>;

/** Bytes of a string in a page. */
const pieceBytes = 1024 * 1024;
/** Most memory that a value takes which can only be read whole. */
const wholeBytes = 4 * 1024 * 1024;

/** Types whose pages are found by a cursor of the server's, which means nothing once the server was restarted. */
export const scannedTypes: ReadonlySet<string> = new Set(["set", "hash"]);

/** Reads a page of a value. Bounded in bytes too, so that it may have fewer elements than are wanted. */
export function readValue(client: Client, request: ValueRequest): Promise<ValuePage> {
  return (readers[request.facts.type] ?? readDump)(client, request);
}

/** Elements of a value that one command asks for. How long they are is known when they are here. */
const elementsAtOnce = 25;

/** Some elements that one command found, the bytes of which a response tells, and where the next ones begin. */
interface Step<T> {
  readonly found: readonly T[];
  readonly contents: readonly Buffer[];
  readonly next: string | undefined;
}

/**
 * Asks for elements, a few at a time, until there are as many as are wanted or probably have room, or their bytes fill a page: what the
 * server says of a value's size rests on a few elements, and others may be far larger.
 */
async function elementsOf<T>(
  { facts, from, size }: ValueRequest,
  length: number,
  ask: (from: string | undefined, count: number) => Promise<Step<T>>,
): Promise<Step<T>> {
  const elementBytes = Math.max(1, facts.sizeBytes / Math.max(1, length));
  const wanted = Math.max(1, Math.min(size, Math.floor(pageBytes / elementBytes)));
  const found: T[] = [];
  const contents: Buffer[] = [];
  let bytes = 0;
  let next = from;
  do {
    const step = await ask(next, Math.min(elementsAtOnce, wanted - found.length));
    found.push(...step.found);
    contents.push(...step.contents);
    bytes += step.contents.reduce((sum, each) => sum + each.length, 0);
    next = step.next;
  } while (next !== undefined && found.length < wanted && bytes < pageBytes);
  return { found, contents, next };
}

const readers: Readonly<Record<string, Reader>> = {
  async string(client, { facts: { key }, from, format }) {
    const offset = Number(from ?? 0);
    const length = await client.strlen(key);
    const read = await client.getrangeBuffer(key, offset, offset + pieceBytes - 1);
    const isLast = offset + read.length >= length;
    const piece = isLast ? read : wholeCharacters(read);
    const content = { form: formOf(piece, format, offset > 0 || !isLast) };
    return {
      length,
      value: { case: "string", value: { offsetBytes: BigInt(offset), content } },
      next: isLast || piece.length === 0 ? undefined : String(offset + piece.length),
    };
  },

  async list(client, request) {
    const { key } = request.facts;
    const length = await client.llen(key);
    const { found, contents, next } = await elementsOf(request, length, async (from, count) => {
      const first = Number(from ?? 0);
      const elements = await client.lrangeBuffer(key, first, first + count - 1);
      return { found: elements, contents: elements, next: nextIndex(first, elements.length, length) };
    });
    const elements = found.map(teller(request.format, contents));
    return { length, value: { case: "list", value: { firstIndex: BigInt(request.from ?? 0), elements } }, next };
  },

  async set(client, request) {
    const { key } = request.facts;
    const length = await client.scard(key);
    const { found, contents, next } = await elementsOf(request, length, async (from = "0", count) => {
      const [cursor, members] = await client.sscanBuffer(key, from, "COUNT", count);
      return { found: members, contents: members, next: nextCursor(cursor) };
    });
    return { length, value: { case: "set", value: { members: found.map(teller(request.format, contents)) } }, next };
  },

  async hash(client, request) {
    const { key } = request.facts;
    const length = await client.hlen(key);
    const { found, contents, next } = await elementsOf(request, length, async (from = "0", count) => {
      const [cursor, flat] = await client.hscanBuffer(key, from, "COUNT", count);
      return { found: pairs(flat), contents: flat, next: nextCursor(cursor) };
    });
    const tell = teller(request.format, contents);
    const fields = found.map(([field, value]) => ({ field: tell(field), value: tell(value) }));
    return { length, value: { case: "hash", value: { fields } }, next };
  },

  async zset(client, request) {
    const { key } = request.facts;
    const length = await client.zcard(key);
    const { found, contents, next } = await elementsOf(request, length, async (from, count) => {
      const first = Number(from ?? 0);
      const scored = pairs(await client.zrangeBuffer(key, first, String(first + count - 1), "WITHSCORES"));
      const members = scored.map(([member]) => member);
      return { found: scored, contents: members, next: nextIndex(first, scored.length, length) };
    });
    const tell = teller(request.format, contents);
    const members = found.map(([member, score]) => ({ member: tell(member), score: scoreOf(score) }));
    return { length, value: { case: "sortedSet", value: { firstRank: BigInt(request.from ?? 0), members } }, next };
  },

  async stream(client, request) {
    const { key } = request.facts;
    const length = await client.xlen(key);
    const { found, contents, next } = await elementsOf(request, length, async (from = "-", count) => {
      const entries = await client.xrangeBuffer(key, from, "+", "COUNT", String(count + 1));
      const step = entries.slice(0, count);
      return { found: step, contents: step.flatMap(([, fields]) => fields), next: entries[count]?.[0].toString() };
    });
    const tell = teller(request.format, contents);
    const entries = found.map(([id, fields]) => ({
      entryId: id.toString(),
      fields: pairs(fields).map(([field, value]) => ({ field: tell(field), value: tell(value) })),
    }));
    return { length, value: { case: "stream", value: { entries } }, next };
  },
};

async function readDump(client: Client, { facts: { key, sizeBytes, type } }: ValueRequest): Promise<ValuePage> {
  if (sizeBytes > wholeBytes) {
    const metadata = { type, size_bytes: String(sizeBytes), limit_bytes: String(wholeBytes) };
    throw fail("CACHE_VALUE_TOO_LARGE", `A value of the type ${type} is read whole, and this one is too large`, {
      metadata,
    });
  }
  const dump = (await client.dumpBuffer(key)) as Buffer | null; // the types say nothing of a key that is not there
  if (dump === null) throw keyNotFound(key);
  return { length: 0, value: { case: "dump", value: dump }, next: undefined };
}

function nextIndex(first: number, read: number, length: number): string | undefined {
  return read === 0 || first + read >= length ? undefined : String(first + read);
}

function nextCursor(cursor: Buffer): string | undefined {
  const text = cursor.toString();
  return text === "0" ? undefined : text;
}

/** Replies have what belongs together one after the other. */
function pairs(flat: readonly Buffer[]): [Buffer, Buffer][] {
  return Array.from({ length: Math.floor(flat.length / 2) }, (_, index) => [
    flat[2 * index] ?? Buffer.alloc(0),
    flat[2 * index + 1] ?? Buffer.alloc(0),
  ]);
}

function scoreOf(text: Buffer): number {
  const score = text.toString();
  if (score === "inf") return Infinity;
  return score === "-inf" ? -Infinity : Number(score);
}

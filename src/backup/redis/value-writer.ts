import type { RedisPart } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import type { Command } from "./connection.ts";

/** What of a value is written differs by what the server can keep. */
export interface WriteOptions {
  readonly hasStreamCounters: boolean;
}

/** The commands that put a part of a value behind the parts that a key has already. */
export function partCommands(key: Buffer, part: RedisPart, options: WriteOptions): Command[] {
  const elements = part.elements.map(asBuffer);
  switch (part.type) {
    case "string":
      return elements.map((piece) => ["APPEND", key, piece]);
    case "list":
      return elements.length === 0 ? [] : [["RPUSH", key, ...elements]];
    case "set":
      return elements.length === 0 ? [] : [["SADD", key, ...elements]];
    case "zset":
      return elements.length === 0 ? [] : [["ZADD", key, ...swapped(elements)]];
    case "hash":
      return elements.length === 0 ? [] : [["HSET", key, ...elements], ...fieldExpiries(key, elements, part)];
    case "stream":
      return streamCommands(key, part, options);
    default:
      throw new Error(`No ${part.type} can be written in parts`);
  }
}

/** Scores come before their members in ZADD. */
function swapped(elements: readonly Buffer[]): Buffer[] {
  return elements.map((_, index) => elements[index ^ 1] ?? Buffer.alloc(0));
}

function fieldExpiries(key: Buffer, elements: readonly Buffer[], { fieldExpireTimesMs }: RedisPart): Command[] {
  return fieldExpireTimesMs.flatMap((time, index): Command[] => {
    const field = elements[2 * index];
    return time === 0n || field === undefined ? [] : [["HPEXPIREAT", key, String(time), "FIELDS", 1, field]];
  });
}

function streamCommands(key: Buffer, { entries, stream, pending }: RedisPart, options: WriteOptions): Command[] {
  const commands: Command[] = entries.map(({ id, fields }) => ["XADD", key, id, ...fields.map(asBuffer)]);
  if (stream !== undefined) {
    const { lastId, entriesAdded, maxDeletedId, groups } = stream;
    const counters = options.hasStreamCounters && entriesAdded !== undefined;
    const more = counters ? ["ENTRIESADDED", String(entriesAdded), "MAXDELETEDID", maxDeletedId] : [];
    commands.push(["XSETID", key, lastId, ...more]);
    for (const { name, lastDeliveredId, entriesRead, consumers } of groups) {
      const group = asBuffer(name);
      const read = options.hasStreamCounters && entriesRead !== undefined ? ["ENTRIESREAD", String(entriesRead)] : [];
      commands.push(["XGROUP", "CREATE", key, group, lastDeliveredId, ...read]);
      for (const consumer of consumers) commands.push(["XGROUP", "CREATECONSUMER", key, group, asBuffer(consumer)]);
    }
  }
  for (const { group, consumer, id, deliveryTimeMs, deliveryCount } of pending) {
    const as = ["TIME", String(deliveryTimeMs), "RETRYCOUNT", String(deliveryCount), "FORCE", "JUSTID"];
    commands.push(["XCLAIM", key, asBuffer(group), asBuffer(consumer), 0, id, ...as]);
  }
  return commands;
}

/** The same bytes as a Buffer, not copied. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

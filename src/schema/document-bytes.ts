import { type Document, serialize } from "bson";

/**
 * The bytes of a document that the driver has read. An object with a field `_bsontype`, which it reads as any other, it takes for one of
 * its own types when it writes, and fails.
 */
export function documentBytes(document: Document): Uint8Array {
  try {
    return serialize(document);
  } catch {
    return serialize(asMap(document) as Document); // a document is an object
  }
}

/** Of a map the driver writes what is in it. */
function asMap(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(asMap);
  if (typeof value !== "object" || value === null || Object.getPrototypeOf(value) !== Object.prototype) return value;
  return new Map(Object.entries(value).map(([name, inner]) => [name, asMap(inner)]));
}

import { fail } from "../errors.ts";

/** Types of BSON elements, as bsonspec.org numbers them. */
export const BSON = {
  double: 0x01,
  string: 0x02,
  document: 0x03,
  array: 0x04,
  binary: 0x05,
  objectId: 0x07,
  bool: 0x08,
  date: 0x09,
  null: 0x0a,
  int32: 0x10,
  long: 0x12,
} as const;

const typeNames = new Map<number, string>(Object.entries(BSON).map(([name, type]) => [type, name]));

/** What an element of this type is called. */
export function bsonTypeName(type: number): string {
  return typeNames.get(type) ?? `BSON type ${type}`;
}

/** The same bytes as a Buffer, without a copy. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Where the document at `at` ends. Fails with `DOCUMENT_DAMAGED` where it claims to be longer than `limit` allows. */
export function documentEnd(source: Buffer, at: number, limit: number): number {
  const end = at + (at + 5 <= limit ? source.readInt32LE(at) : 0);
  if (end < at + 5 || end > limit || source[end - 1] !== 0) throw damaged();
  return end;
}

/** Where the null byte is that ends the name at `at`. */
export function nameEnd(source: Buffer, at: number, limit: number): number {
  const end = source.indexOf(0, at);
  if (end < 0 || end >= limit) throw damaged();
  return end;
}

/** Where the value of this type at `at` ends. Checks that it does so before `limit`. */
export function valueEnd(source: Buffer, type: number, at: number, limit: number): number {
  const end = at + valueBytes(source, type, at, limit);
  if (end > limit || end < at) throw damaged();
  return end;
}

function valueBytes(source: Buffer, type: number, at: number, limit: number): number {
  switch (type) {
    case BSON.string:
    case 0x0d: // code
    case 0x0e: // symbol
      return 4 + lengthAt(source, at, limit, 1);
    case BSON.document:
    case BSON.array:
      return documentEnd(source, at, limit) - at;
    case BSON.int32:
      return 4;
    case BSON.double:
    case BSON.date:
    case BSON.long:
    case 0x11: // timestamp
      return 8;
    case BSON.bool:
      return 1;
    case BSON.null:
    case 0x06: // undefined
    case 0x7f: // max key
    case 0xff: // min key
      return 0;
    case BSON.objectId:
      return 12;
    case BSON.binary:
      return 5 + lengthAt(source, at, limit, 0);
    case 0x13: // decimal
      return 16;
    case 0x0c: // pointer
      return 4 + lengthAt(source, at, limit, 1) + 12;
    case 0x0f: // code with scope
      return lengthAt(source, at, limit, 14);
    case 0x0b: // regular expression
      return nameEnd(source, nameEnd(source, at, limit) + 1, limit) + 1 - at;
    default:
      throw damaged();
  }
}

function lengthAt(source: Buffer, at: number, limit: number, least: number): number {
  if (at + 4 > limit) throw damaged();
  const length = source.readInt32LE(at);
  if (length < least) throw damaged();
  return length;
}

function damaged() {
  return fail("DOCUMENT_DAMAGED", "A stored document is not valid BSON");
}

/** An element at the top of a document: its type, and where its value begins and ends. */
interface Element {
  readonly type: number;
  readonly at: number;
  readonly end: number;
}

function elementIn(source: Buffer, name: string): Element | undefined {
  const limit = documentEnd(source, 0, source.length) - 1;
  for (let from = 4; from < limit;) {
    const type = source[from] as number; // from is below the length
    const at = nameEnd(source, from + 1, limit) + 1;
    const end = valueEnd(source, type, at, limit);
    if (source.toString("latin1", from + 1, at - 1) === name) return { type, at, end };
    from = end;
  }
  return undefined;
}

/** The text in a field at the top of a document; undefined where it is absent or no text. */
export function stringIn(document: Uint8Array, name: string): string | undefined {
  const source = asBuffer(document);
  const found = elementIn(source, name);
  return found?.type === BSON.string ? source.toString("utf8", found.at + 4, found.end - 1) : undefined;
}

/** Whether a field at the top of a document is an array that holds something. */
export function hasItems(document: Uint8Array, name: string): boolean {
  const source = asBuffer(document);
  const found = elementIn(source, name);
  return found?.type === BSON.array && found.end - found.at > 5; // an empty document takes five bytes
}

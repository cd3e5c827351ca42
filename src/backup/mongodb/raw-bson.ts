/**
 * BSON without decoding: what is backed up must come back bit for bit, and decoding loses some of it (the payload of a NaN,
 * repeated names, deprecated types). Documents are walked over and put together from slices; no value is interpreted.
 */

/** Numbers of the element types that are looked into. */
export const bsonType = { string: 2, document: 3, array: 4, null: 10, int32: 16, timestamp: 17, int64: 18 } as const;

/** One element of a document. Offsets are into the bytes that it was read from. */
export interface RawElement {
  readonly type: number;
  readonly name: string;
  /** Where the element starts: its type. */
  readonly start: number;
  /** Where the value starts. */
  readonly value: number;
  /** Where the next element starts. */
  readonly end: number;
}

/** The elements of a document, in order. Throws on bytes that are not a document. */
export function* elementsOf(document: Uint8Array): Generator<RawElement, void, void> {
  const view = viewOf(document);
  const length = view.getInt32(0, true);
  if (length !== document.byteLength || document[length - 1] !== 0) throw malformed();
  let start = 4;
  while (start < length - 1) {
    const type = view.getUint8(start);
    const nameEnd = document.indexOf(0, start + 1);
    if (nameEnd === -1) throw malformed();
    const value = nameEnd + 1;
    const end = value + valueLength(document, view, type, value);
    if (end > length - 1) throw malformed();
    yield { type, name: textOf(document, start + 1, nameEnd), start, value, end };
    start = end;
  }
}

/** The first element of that name. */
export function elementOf(document: Uint8Array, name: string): RawElement | undefined {
  for (const element of elementsOf(document)) if (element.name === name) return element;
  return undefined;
}

/** Whether there is an element of that name. */
export function hasName(document: Uint8Array, name: string): boolean {
  return elementOf(document, name) !== undefined;
}

/** The bytes of a value that is a document or an array; undefined where there is none of that name. */
export function documentIn(document: Uint8Array, name: string): Uint8Array | undefined {
  const element = elementOf(document, name);
  return element !== undefined && isNested(element) ? valueBytes(document, element) : undefined;
}

/** The text of a value; undefined where there is no text of that name. */
export function textIn(document: Uint8Array, name: string): string | undefined {
  const element = elementOf(document, name);
  return element?.type === bsonType.string ? textValue(document, element) : undefined;
}

/** The bytes of an element's value. */
export function valueBytes(document: Uint8Array, { value, end }: RawElement): Uint8Array {
  return document.subarray(value, end);
}

/** The text of an element that is a string. */
export function textValue(document: Uint8Array, { value, end }: RawElement): string {
  return textOf(document, value + 4, end - 1);
}

/** The number in an element that is an int32, an int64 or a double; undefined for others. */
export function numberValue(document: Uint8Array, { type, value }: RawElement): number | undefined {
  const view = viewOf(document);
  if (type === bsonType.int32) return view.getInt32(value, true);
  if (type === bsonType.int64) return Number(view.getBigInt64(value, true));
  return type === 1 ? view.getFloat64(value, true) : undefined;
}

/** A cluster time as one number: seconds in the upper 32 bits, ordinal in the lower. */
export function timestampValue(document: Uint8Array, { value }: RawElement): bigint {
  return viewOf(document).getBigUint64(value, true);
}

/** Whether an element is a document or an array. */
export function isNested({ type }: RawElement): boolean {
  return type === bsonType.document || type === bsonType.array;
}

/**
 * The type and the bytes of `_id`, which tell documents of one collection apart. Servers keep `_id` in front, so that only the
 * first element is looked at as a rule. Undefined where there is none.
 */
export function idOf(document: Uint8Array): Uint8Array | undefined {
  // "_id" and its end
  if (document[5] === 0x5f && document[6] === 0x69 && document[7] === 0x64 && document[8] === 0) {
    const view = viewOf(document);
    return document.subarray(4, 9 + valueLength(document, view, view.getUint8(4), 9));
  }
  const element = elementOf(document, "_id");
  return element === undefined ? undefined : document.subarray(element.start, element.end);
}

/** The document with its `_id` as the first element, where servers put it however the document was sent. */
export function withIdInFront(document: Uint8Array): Uint8Array {
  const id = idOf(document);
  if (id === undefined || id.byteOffset === document.byteOffset + 4) return document;
  const others = Array.from(elementsOf(document), ({ name, start, end }) =>
    name === "_id" ? new Uint8Array(0) : document.subarray(start, end),
  );
  return documentOf([id, ...others]);
}

/** A key of maps for what `idOf` returns. */
export function keyText(id: Uint8Array): string {
  return Buffer.from(id.buffer, id.byteOffset, id.byteLength).toString("latin1");
}

/** A document of the given elements: type, name and value each. */
export function documentOf(elements: readonly Uint8Array[]): Buffer {
  let length = 5;
  for (const element of elements) length += element.byteLength;
  const document = Buffer.allocUnsafe(length);
  document.writeInt32LE(length, 0);
  let offset = 4;
  for (const element of elements) {
    document.set(element, offset);
    offset += element.byteLength;
  }
  document[offset] = 0;
  return document;
}

/** An element of the given type, name and value. */
export function rawElement(type: number, name: string, value: Uint8Array): Buffer {
  const nameLength = Buffer.byteLength(name);
  const element = Buffer.allocUnsafe(nameLength + 2 + value.byteLength);
  element[0] = type;
  element.write(name, 1);
  element[nameLength + 1] = 0;
  element.set(value, nameLength + 2);
  return element;
}

export function textElement(name: string, text: string): Buffer {
  const bytes = Buffer.byteLength(text);
  const value = Buffer.allocUnsafe(bytes + 5);
  value.writeInt32LE(bytes + 1, 0);
  value.write(text, 4);
  value[bytes + 4] = 0;
  return rawElement(bsonType.string, name, value);
}

export function int32Element(name: string, number: number): Buffer {
  const value = Buffer.allocUnsafe(4);
  value.writeInt32LE(number, 0);
  return rawElement(bsonType.int32, name, value);
}

export function timestampElement(name: string, time: bigint): Buffer {
  const value = Buffer.allocUnsafe(8);
  value.writeBigUInt64LE(time, 0);
  return rawElement(bsonType.timestamp, name, value);
}

/** Whether two byte sequences are the same. */
export function sameBytes(one: Uint8Array, other: Uint8Array): boolean {
  return one.byteLength === other.byteLength && Buffer.compare(one, other) === 0;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function textOf(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString("utf8");
}

function malformed(): Error {
  return new Error("Bytes that should be a BSON document are none");
}

function valueLength(bytes: Uint8Array, view: DataView, type: number, at: number): number {
  switch (type) {
    case 0x01: // double
    case 0x09: // date
    case 0x11: // timestamp
    case 0x12: // int64
      return 8;
    case 0x02: // string
    case 0x0d: // code
    case 0x0e: // symbol
      return 4 + view.getInt32(at, true);
    case 0x03: // document
    case 0x04: // array
    case 0x0f: // code with scope
      return view.getInt32(at, true);
    case 0x05: // binary
      return 5 + view.getInt32(at, true);
    case 0x06: // undefined
    case 0x0a: // null
    case 0x7f: // max key
    case 0xff: // min key
      return 0;
    case 0x07: // object id
      return 12;
    case 0x08: // boolean
      return 1;
    case 0x0b: {
      // regular expression: pattern and options
      const second = bytes.indexOf(0, at) + 1;
      return bytes.indexOf(0, second) + 1 - at;
    }
    case 0x0c: // pointer
      return 16 + view.getInt32(at, true);
    case 0x10: // int32
      return 4;
    case 0x13: // decimal
      return 16;
    default:
      throw malformed();
  }
}

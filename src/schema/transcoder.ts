import { type DescMessage, ScalarType } from "@bufbuild/protobuf";

import { asBuffer, BSON, documentEnd, nameEnd, valueEnd } from "./bson-reader.ts";
import { etagOf } from "./stored-field.ts";
import { writeAny, writeListValue, writeStruct } from "./transcoder-free-data.ts";
import { copyText, guessBytes, misfit, numberAt, path, unreadable, writer } from "./transcoder-output.ts";
import { DELIMITED, type FieldPlan, type MessagePlan, planOf, type ValuePlan } from "./transcoder-plan.ts";

/** No document makes more bytes of a message than this for each of its own. A null in an array of a Struct makes four. */
const growth = 5;

/** The whole number that was read last, in halves of 32 bits. */
let low = 0;
let high = 0;

/** Turns raw BSON documents into the wire bytes of the messages that they store, without making a document in between. */
export interface Transcoder {
  /** The wire bytes of one message. Fails with `DOCUMENT_DAMAGED`, naming the field, where a value is not of its type. */
  message(document: Uint8Array): Uint8Array;
  /**
   * The wire bytes of messages that are a field of another message: one for a singular field, any for a repeated one. `rest` are
   * those of its other fields, to follow; `tails` those of fields that each message has besides what its document says.
   */
  embedded(
    fieldNumber: number,
    documents: readonly Uint8Array[],
    rest?: Uint8Array,
    tails?: readonly Uint8Array[],
  ): Uint8Array;
}

/** The transcoder of a message. Fields of a document that the message does not have, such as `_id`, are left out. */
export function transcoderFor(message: DescMessage): Transcoder {
  const plan = planOf(message);
  return {
    message(document) {
      const source = asBuffer(document);
      path.length = 0;
      writer.open(source.length * growth + 64);
      writeMessage(source, 0, source.length, plan);
      return writer.close();
    },
    embedded(fieldNumber, documents, rest, tails = []) {
      path.length = 0;
      let most = rest?.length ?? 0;
      for (const document of documents) most += document.length * growth + 64;
      for (const tail of tails) most += tail.length;
      writer.open(most);
      const tag = (fieldNumber << 3) | DELIMITED;
      for (const [index, document] of documents.entries()) {
        const source = asBuffer(document);
        const tail = tails[index];
        writer.varint(tag);
        const guess = guessBytes(source.length);
        const start = writer.begin(guess);
        writeMessage(source, 0, source.length, plan);
        // Messages are merged by writing one after the other.
        if (tail !== undefined) writer.raw(tail);
        writer.end(start, guess);
      }
      if (rest !== undefined) writer.raw(rest);
      return writer.close();
    },
  };
}

/** Writes what the document at `from` stores; returns where it ends. */
function writeMessage(source: Buffer, from: number, limit: number, plan: MessagePlan): number {
  const end = documentEnd(source, from, limit);
  const last = end - 1;
  let next = 0;
  let at = from + 4;
  while (at < last) {
    const type = source[at] as number; // at is below the length
    const field = fieldAt(source, at + 1, last, plan, next);
    if (field === undefined) {
      at = valueEnd(source, type, nameEnd(source, at + 1, last) + 1, last);
      continue;
    }
    next = field.index + 1;
    at += 1 + field.nameBytes.length;
    if (type === BSON.null && (field.shape !== "one" || field.value.kind !== "value")) continue; // says as little as absence
    if (field.shape === "one") at = writeValue(source, type, at, last, field.value);
    else if (field.shape === "list") at = writeList(source, type, at, last, field);
    else at = writeMap(source, type, at, last, field);
  }
  return end;
}

/** The field that is named at `at`. Documents mostly have their fields in the order of the message. */
function fieldAt(source: Buffer, at: number, limit: number, plan: MessagePlan, next: number): FieldPlan | undefined {
  const { fields } = plan;
  for (let index = next; index < fields.length; index++) {
    const field = fields[index] as FieldPlan; // index is below the length
    if (isAt(source, at, field.nameBytes)) return field;
  }
  return plan.byName.get(source.toString("utf8", at, nameEnd(source, at, limit)));
}

function isAt(source: Buffer, at: number, bytes: Buffer): boolean {
  for (let index = 0; index < bytes.length; index++) {
    if (source[at + index] !== bytes[index]) return false;
  }
  return true;
}

function writeList(source: Buffer, type: number, at: number, limit: number, { value }: FieldPlan): number {
  if (type !== BSON.array) throw misfit(value.name, type, "array");
  const end = documentEnd(source, at, limit);
  for (let element = at + 4; element < end - 1;) {
    const elementType = source[element] as number; // element is below the length
    element = writeValue(source, elementType, nameEnd(source, element + 1, end) + 1, end - 1, value);
  }
  return end;
}

function writeMap(source: Buffer, type: number, at: number, limit: number, field: FieldPlan): number {
  const { value, key } = field;
  if (type !== BSON.document || key === undefined) throw misfit(field.name, type, "document");
  const end = documentEnd(source, at, limit);
  for (let element = at + 4; element < end - 1;) {
    const elementType = source[element] as number; // element is below the length
    const keyEnd = nameEnd(source, element + 1, end);
    const elementEnd = valueEnd(source, elementType, keyEnd + 1, end - 1);
    writer.varint(field.entryTag);
    const guess = guessBytes(elementEnd - element);
    const start = writer.begin(guess);
    writeKey(source, element + 1, keyEnd, key);
    writeValue(source, elementType, keyEnd + 1, end - 1, value);
    writer.end(start, guess);
    element = elementEnd;
  }
  return end;
}

function writeKey(source: Buffer, at: number, end: number, key: ValuePlan): void {
  writer.varint(key.tag);
  if (key.kind === "string") {
    writer.varint(end - at);
    copyText(source, at, end, key.name);
    return;
  }
  const text = source.toString("latin1", at, end);
  if (key.kind === "bool") {
    if (text !== "true" && text !== "false") throw unreadable(key.name, "a key that is neither true nor false");
    writer.byte(text === "true" ? 1 : 0);
    return;
  }
  if (!/^-?\d{1,20}$/.test(text)) throw unreadable(key.name, "a key that is not a whole number");
  const number = BigInt(text);
  low = Number(BigInt.asIntN(32, number));
  high = Number(BigInt.asIntN(32, number >> 32n));
  writeInteger(key.scalar);
}

/** Writes the value at `at` with its tag; returns where it ends. */
function writeValue(source: Buffer, type: number, at: number, limit: number, value: ValuePlan): number {
  switch (value.kind) {
    case "string":
      return writeText(source, type, at, limit, value);
    case "int32":
    case "uint32":
    case "int64":
    case "uint64": {
      const end = readInteger(source, type, at, limit, value);
      if (low !== 0 || high !== 0 || !value.implicit) {
        writer.varint(value.tag);
        writeInteger(value.scalar);
      }
      if (value.etagTag !== 0) {
        writer.varint(value.etagTag);
        writer.ascii(etagOf((BigInt(high) << 32n) | BigInt(low >>> 0)));
      }
      return end;
    }
    case "bool": {
      if (type !== BSON.bool) throw misfit(value.name, type, "bool");
      const isTrue = source[at] !== 0;
      if (isTrue || !value.implicit) {
        writer.varint(value.tag);
        writer.byte(isTrue ? 1 : 0);
      }
      return valueEnd(source, type, at, limit);
    }
    case "enum":
      return writeEnum(source, type, at, limit, value);
    case "double":
      return writeDouble(source, type, at, limit, value);
    case "timestamp":
      return writeTimestamp(source, type, at, limit, value);
    case "bytes": {
      if (type !== BSON.binary) throw misfit(value.name, type, "binary");
      const end = valueEnd(source, type, at, limit);
      if (source[at + 4] !== 0) throw unreadable(value.name, "binary of another subtype than the generic one");
      if (end > at + 5 || !value.implicit) {
        writer.varint(value.tag);
        writer.varint(end - at - 5);
        writer.copy(source, at + 5, end);
      }
      return end;
    }
    default:
      return writeNested(source, type, at, limit, value);
  }
}

function writeNested(source: Buffer, type: number, at: number, limit: number, value: ValuePlan): number {
  const end = valueEnd(source, type, at, limit);
  const guess = guessBytes(end - at);
  writer.varint(value.tag);
  const start = writer.begin(guess);
  path.push(value.name);
  switch (value.kind) {
    case "message":
      if (type !== BSON.document) throw misfit(undefined, type, "document");
      writeMessage(source, at, limit, value.message());
      break;
    case "struct":
      if (type !== BSON.document) throw misfit(undefined, type, "document");
      writeStruct(source, at, limit);
      break;
    case "list_value":
      if (type !== BSON.array) throw misfit(undefined, type, "array");
      writeListValue(source, at, limit);
      break;
    case "value":
      writeAny(source, type, at, end);
      break;
    default: {
      const [inner] = value.message().fields; // a wrapper's only field
      if (inner !== undefined) writeValue(source, type, at, limit, inner.value);
    }
  }
  path.pop();
  writer.end(start, guess);
  return end;
}

function writeText(source: Buffer, type: number, at: number, limit: number, value: ValuePlan): number {
  if (type !== BSON.string) throw misfit(value.name, type, "string");
  const end = valueEnd(source, type, at, limit);
  const length = end - at - 5;
  if (length > 0 || !value.implicit) {
    writer.varint(value.tag);
    writer.varint(length);
    copyText(source, at + 4, end - 1, value.name);
  }
  return end;
}

/** Reads a whole number of any type that holds it exactly: a shell or another driver may have stored it otherwise. */
function readInteger(source: Buffer, type: number, at: number, limit: number, value: ValuePlan): number {
  const end = valueEnd(source, type, at, limit);
  switch (type) {
    case BSON.long:
      low = source.readInt32LE(at);
      high = source.readInt32LE(at + 4);
      break;
    case BSON.int32:
      low = source.readInt32LE(at);
      high = low >> 31;
      break;
    case BSON.double: {
      const number = source.readDoubleLE(at);
      if (!Number.isSafeInteger(number)) throw unreadable(value.name, "a number that is not a whole one");
      low = number | 0;
      high = Math.floor(number / 0x1_0000_0000) | 0;
      break;
    }
    default:
      throw misfit(value.name, type, "long");
  }
  const fits =
    value.kind === "int64" ||
    (value.kind === "uint64" && high >= 0) ||
    (value.kind === "int32" && high === low >> 31) ||
    (value.kind === "uint32" && high === 0);
  if (!fits) throw unreadable(value.name, `a number that is out of the range of ${value.kind}`);
  return end;
}

/** Writes `low` and `high` as this type is written. */
function writeInteger(scalar: ScalarType | undefined): void {
  switch (scalar) {
    case ScalarType.FIXED32:
    case ScalarType.SFIXED32:
      writer.fixed32(low);
      break;
    case ScalarType.FIXED64:
    case ScalarType.SFIXED64:
      writer.fixed32(low);
      writer.fixed32(high);
      break;
    case ScalarType.SINT32:
    case ScalarType.SINT64: {
      const sign = high >> 31;
      writer.varint64((low << 1) ^ sign, ((high << 1) | (low >>> 31)) ^ sign);
      break;
    }
    default:
      writer.varint64(low, high);
  }
}

function writeDouble(source: Buffer, type: number, at: number, limit: number, value: ValuePlan): number {
  const end = valueEnd(source, type, at, limit);
  const number = numberAt(source, type, at);
  if (number === undefined) throw misfit(value.name, type, "double");
  if (!Object.is(number, 0) || !value.implicit) {
    writer.varint(value.tag);
    if (value.scalar === ScalarType.FLOAT) writer.float(number);
    else writer.double(number);
  }
  return end;
}

function writeEnum(source: Buffer, type: number, at: number, limit: number, value: ValuePlan): number {
  const end = valueEnd(source, type, at, limit);
  if (type === BSON.string) {
    const found = value.enumNames.find(({ bytes }) => bytes.length === end - at - 4 && isAt(source, at + 4, bytes));
    if (found === undefined) throw unreadable(value.name, "a name that its enum does not have");
    low = found.number;
  } else if (type === BSON.int32) {
    low = source.readInt32LE(at); // a value that has no name, from a caller that is newer than this service
  } else {
    throw misfit(value.name, type, "string");
  }
  if (low !== 0 || !value.implicit) {
    writer.varint(value.tag);
    writer.varint64(low, low >> 31);
  }
  return end;
}

const firstSecond = -62_135_596_800;
const lastSecond = 253_402_300_799;

function writeTimestamp(source: Buffer, type: number, at: number, limit: number, value: ValuePlan): number {
  if (type !== BSON.date) throw misfit(value.name, type, "date");
  const end = valueEnd(source, type, at, limit);
  const ms = source.readInt32LE(at + 4) * 0x1_0000_0000 + source.readUInt32LE(at);
  const seconds = Math.floor(ms / 1000);
  if (seconds < firstSecond || seconds > lastSecond) throw unreadable(value.name, "a date outside the years 1 to 9999");
  const nanos = (ms - seconds * 1000) * 1_000_000;
  writer.varint(value.tag);
  const start = writer.begin(0);
  if (seconds !== 0) {
    writer.byte(0x08);
    writer.varint64(seconds | 0, Math.floor(seconds / 0x1_0000_0000) | 0);
  }
  if (nanos !== 0) {
    writer.byte(0x10);
    writer.varint(nanos);
  }
  writer.end(start, 0);
  return end;
}

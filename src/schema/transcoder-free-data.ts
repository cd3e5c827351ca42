import { BSON, documentEnd, nameEnd, valueEnd } from "./bson-reader.ts";
import { copyText, guessBytes, misfit, numberAt, unreadable, writer } from "./transcoder-output.ts";

/** Writes a document as a google.protobuf.Struct. */
export function writeStruct(source: Buffer, at: number, limit: number): void {
  const end = documentEnd(source, at, limit);
  for (let element = at + 4; element < end - 1;) {
    const type = source[element] as number; // element is below the length
    const keyAt = element + 1;
    const keyEnd = nameEnd(source, keyAt, end);
    element = valueEnd(source, type, keyEnd + 1, end - 1);
    const guess = guessBytes(element - keyAt);
    writer.byte(0x0a); // fields
    const start = writer.begin(guess);
    writer.byte(0x0a); // key
    writer.varint(keyEnd - keyAt);
    copyText(source, keyAt, keyEnd, "(a name)");
    writer.byte(0x12); // value
    const valueStart = writer.begin(guess);
    writeAny(source, type, keyEnd + 1, element);
    writer.end(valueStart, guess);
    writer.end(start, guess);
  }
}

/** Writes an array as a google.protobuf.ListValue. */
export function writeListValue(source: Buffer, at: number, limit: number): void {
  const end = documentEnd(source, at, limit);
  for (let element = at + 4; element < end - 1;) {
    const type = source[element] as number; // element is below the length
    const valueAt = nameEnd(source, element + 1, end) + 1;
    element = valueEnd(source, type, valueAt, end - 1);
    const guess = guessBytes(element - valueAt);
    writer.byte(0x0a); // values
    const start = writer.begin(guess);
    writeAny(source, type, valueAt, element);
    writer.end(start, guess);
  }
}

/**
 * Writes any value as a google.protobuf.Value. What JSON has no type for is written as protobuf's JSON form has it: a long that
 * a double does not hold and a double that is not finite as text, a date as RFC 3339, binary as base64; an ObjectId as its
 * hexadecimal digits.
 */
export function writeAny(source: Buffer, type: number, at: number, end: number): void {
  const number = numberAt(source, type, at);
  if (number !== undefined && Number.isFinite(number)) {
    writer.byte(0x11);
    writer.double(number);
    return;
  }
  switch (type) {
    case BSON.null:
      writer.byte(0x08);
      writer.byte(0);
      return;
    case BSON.bool:
      writer.byte(0x20);
      writer.byte(source[at] === 0 ? 0 : 1);
      return;
    case BSON.string:
      writer.byte(0x1a);
      writer.varint(end - at - 5);
      copyText(source, at + 4, end - 1, "(a value)");
      return;
    case BSON.document:
    case BSON.array: {
      const guess = guessBytes(end - at);
      writer.byte(type === BSON.document ? 0x2a : 0x32);
      const start = writer.begin(guess);
      if (type === BSON.document) writeStruct(source, at, end);
      else writeListValue(source, at, end);
      writer.end(start, guess);
      return;
    }
    default:
      writer.byte(0x1a);
      writer.ascii(textOf(source, type, at, end));
  }
}

function textOf(source: Buffer, type: number, at: number, end: number): string {
  switch (type) {
    case BSON.double:
      return String(source.readDoubleLE(at));
    case BSON.long:
      return source.readBigInt64LE(at).toString();
    case BSON.date: {
      const date = new Date(Number(source.readBigInt64LE(at)));
      if (Number.isNaN(date.getTime())) throw unreadable(undefined, "a date that is out of range");
      return date.toISOString();
    }
    case BSON.objectId:
      return source.toString("hex", at, end);
    case BSON.binary:
      return source.toString("base64", at + 5, end);
    default:
      throw misfit(undefined, type, "value that JSON has");
  }
}

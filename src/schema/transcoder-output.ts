import { isUtf8 } from "node:buffer";

import type { ConnectError } from "@connectrpc/connect";

import { fail } from "../errors.ts";
import { BSON, bsonTypeName } from "./bson-reader.ts";
import { WireWriter } from "./wire-writer.ts";

/** What is written runs without a pause from its first byte to its last, so that one writer serves all. */
export const writer = new WireWriter();
/** The nested fields that are being written, for what is said of a value that does not fit. */
export const path: string[] = [];

/** Names make most documents longer than their messages. A wrong guess costs a move of the bytes. */
export function guessBytes(documentBytes: number): number {
  return documentBytes >> 1;
}

/** Servers do not look whether text is UTF-8; a message that holds anything else cannot be read. */
export function copyText(source: Buffer, at: number, end: number, name: string): void {
  if (!writer.copy(source, at, end) && !isUtf8(source.subarray(at, end)))
    throw unreadable(name, "text that is not UTF-8");
}

/** The number at `at`; undefined where it is none, or none that a double holds exactly. */
export function numberAt(source: Buffer, type: number, at: number): number | undefined {
  if (type === BSON.double) return source.readDoubleLE(at);
  if (type === BSON.int32) return source.readInt32LE(at);
  if (type !== BSON.long) return undefined;
  const number = source.readInt32LE(at + 4) * 0x1_0000_0000 + source.readUInt32LE(at);
  return Number.isSafeInteger(number) ? number : undefined;
}

export function misfit(name: string | undefined, type: number, wanted: string): ConnectError {
  return unreadable(name, `a ${bsonTypeName(type)} where a ${wanted} belongs`);
}

export function unreadable(name: string | undefined, found: string): ConnectError {
  const field = (name === undefined ? path : [...path, name]).join(".");
  return fail("DOCUMENT_DAMAGED", `A stored document holds ${found}, in ${field}`, { metadata: { field } });
}

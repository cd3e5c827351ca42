import { isUtf8 } from "node:buffer";

import { fromJson, type JsonValue, type MessageInitShape } from "@bufbuild/protobuf";
import { ValueSchema } from "@bufbuild/protobuf/wkt";

import { ContentFormat, type ContentSchema } from "../../../gen/lucid/admin/v1/cache_service_pb.ts";

/** Most bytes of values in a page; clients of gRPC take 4 MiB at once unless they are told otherwise. */
export const pageBytes = 2 * 1024 * 1024;

/** Deepest JSON that is told as such: readers of protobuf take about a hundred messages within each other. */
const deepestJson = 30;

type Content = MessageInitShape<typeof ContentSchema>;

/** Says how the bytes of one page are told: each of them whole where all have room, else the first ones of those that are long. */
export function teller(format: ContentFormat, page: readonly Buffer[]): (bytes: Buffer) => Content {
  const bytes = page.reduce((sum, each) => sum + each.length, 0);
  const most = bytes <= pageBytes ? pageBytes : Math.floor(pageBytes / page.length);
  return (whole) => {
    if (whole.length <= most) return { form: formOf(whole, format) };
    return { form: formOf(wholeCharacters(whole.subarray(0, most)), format, true), wholeBytes: BigInt(whole.length) };
  };
}

/** The bytes in a format; JSON only of what is whole. */
export function formOf(bytes: Buffer, format: ContentFormat, isPart = false): NonNullable<Content["form"]> {
  if (format === ContentFormat.RAW) return { case: "raw", value: bytes };
  if (format === ContentFormat.BASE64) return { case: "base64", value: bytes.toString("base64") };
  if (!isUtf8(bytes)) return { case: "raw", value: bytes };
  const text = bytes.toString();
  const json = isPart ? undefined : parsed(text);
  return json === undefined ? { case: "text", value: text } : { case: "json", value: fromJson(ValueSchema, json) };
}

/** What was cut off somewhere, without the part of a character that it may end with; as it is where it is no text. */
export function wholeCharacters(cut: Buffer): Buffer {
  if (isUtf8(cut)) return cut;
  // A character of UTF-8 has at most three bytes after its first one.
  const shorter = [1, 2, 3].map((bytes) => cut.subarray(0, Math.max(0, cut.length - bytes)));
  return shorter.find((start) => isUtf8(start)) ?? cut;
}

function parsed(text: string): JsonValue | undefined {
  let value: JsonValue;
  try {
    value = JSON.parse(text) as JsonValue; // parses nothing else
  } catch {
    return undefined;
  }
  return isExact(value, 0) ? value : undefined;
}

/** Whether a Value holds it: no number that a double rounds, no text with half a character. */
function isExact(value: JsonValue, depth: number): boolean {
  if (depth > deepestJson) return false;
  if (typeof value === "number") return Number.isSafeInteger(value) || !Number.isInteger(value);
  if (typeof value === "string") return value.isWellFormed();
  if (typeof value !== "object" || value === null) return true;
  if (Array.isArray(value)) return value.every((item) => isExact(item, depth + 1));
  return Object.entries(value).every(
    ([name, item]) => name !== "__proto__" && name.isWellFormed() && isExact(item, depth + 1),
  );
}

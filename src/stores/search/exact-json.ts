/** A value of JSON in which whole numbers that a JavaScript number cannot hold are bigints. */
export type ExactJson = null | boolean | number | bigint | string | readonly ExactJson[] | ExactObject;

/** An object of such values. */
export interface ExactObject {
  readonly [name: string]: ExactJson;
}

/** Whole numbers of fewer digits are exact as they are; a text may hold so many as well. */
const manyDigits = /\d{16}/;

/** Reads JSON to the last digit: a document's numbers and the places of hits are 64 bits wide. */
export function parseExact(text: string): ExactJson {
  // Looking at each value takes many times as long as reading them all.
  if (!manyDigits.test(text)) return JSON.parse(text) as ExactJson; // none of its numbers is a bigint
  return parse(text, (_name, value, { source = "" }) =>
    typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(source) ? BigInt(source) : value,
  );
}

/** Writes what `parseExact` reads. */
export function writeExact(value: unknown): string {
  return JSON.stringify(value, (_name, member: unknown) =>
    typeof member === "bigint" ? rawJson(String(member)) : member,
  );
}

/** What JSON has and TypeScript's own library has not yet. */
const { parse, rawJSON: rawJson } = JSON as unknown as {
  readonly parse: (
    text: string,
    reviver: (name: string, value: unknown, context: { readonly source?: string }) => unknown,
  ) => ExactJson;
  readonly rawJSON: (text: string) => unknown;
};

/** A whole number of what `parseExact` gave; 0 for what is none. */
export function integerOf(value: unknown): bigint {
  if (typeof value === "bigint") return value;
  return typeof value === "number" && Number.isSafeInteger(value) ? BigInt(value) : 0n;
}

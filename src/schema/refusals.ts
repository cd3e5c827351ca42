import type { ConnectError } from "@connectrpc/connect";
import { calculateObjectSize, type Document } from "bson";

import { fail } from "../errors.ts";

/** A field of a request that is wrong, by its path in proto names. */
export interface WrongField {
  /** Empty where it is the request as a whole. */
  readonly field: string;
  /** What is wrong, as the end of a sentence that starts with the field: `must be set`. */
  readonly description: string;
}

/** Refuses a request for these fields. */
export function badRequest(...wrong: readonly WrongField[]): ConnectError {
  const fields = wrong.flatMap(({ field }) => (field === "" ? [] : [field])).join(", ");
  const message = `The request breaks a rule${fields === "" ? "" : `: ${fields}`}`;
  return fail("BAD_REQUEST", message, { metadata: { fields }, fields: wrong });
}

const mostFreeBytes = 256 * 1024;

/** What is wrong with a free-form value, such as `metadata`: it takes more bytes, 256 KiB as a rule, when it is stored. */
export function tooLarge(field: string, value: Document | undefined, mostBytes = mostFreeBytes): readonly WrongField[] {
  if (value === undefined || calculateObjectSize(value) <= mostBytes) return [];
  return [{ field, description: `must take at most ${mostBytes} bytes when it is stored` }];
}

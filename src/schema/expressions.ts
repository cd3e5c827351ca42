import type { Document } from "bson";

import { revisionOfEtag } from "./stored-field.ts";

/** The highest whole number that MongoDB, search servers and int64 fields hold. */
export const mostLong = 2n ** 63n - 1n;

/** An expression for a stored number, 0 where it is absent, and what is added to it. */
export function sum(field: string, more: bigint | number): Document {
  return { $add: [{ $ifNull: [field, typeof more === "bigint" ? 0n : 0] }, more] };
}

/** A sum of whole numbers, as int64 fields hold one: servers tell one that is higher than they can hold as a double. */
export function wholeSum(told: bigint | number): bigint {
  const exact = BigInt(told);
  return exact > mostLong ? mostLong : exact;
}

/** What a caller sent is a value and never an expression, whatever it looks like. */
export function literal(value: unknown): unknown {
  return value === undefined ? "$$REMOVE" : { $literal: value };
}

/** A filter for an etag; empty for none. */
export function matching(etag: string): Document {
  // An etag that is none of this service's is that of no revision.
  return etag === "" ? {} : { revision: revisionOfEtag(etag) ?? -1n };
}

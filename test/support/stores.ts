import { randomBytes } from "node:crypto";

import { inject } from "vitest";

import type { StoreAddresses } from "../../local/stores.ts";

/** Where the stores of this run answer. All tests share them: give databases, key prefixes and indices a `uniqueName`. */
export function storeAddresses(): StoreAddresses {
  return inject("stores");
}

/** A name that no other test uses, fit for a database, a key prefix and an index alike: lower case, short, no wildcard. */
export function uniqueName(prefix = "test"): string {
  return `${prefix}_${randomBytes(6).toString("hex")}`;
}

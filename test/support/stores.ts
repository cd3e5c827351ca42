import { randomBytes } from "node:crypto";

import { MongoClient, type MongoClientOptions } from "mongodb";
import { inject, vi } from "vitest";

import type { StoreAddresses } from "../../local/stores.ts";

/** Where the stores of this run answer. All tests share them: give databases, key prefixes and indices a `uniqueName`. */
export function storeAddresses(): StoreAddresses {
  return inject("stores");
}

/** A name that no other test uses, fit for a database, a key prefix and an index alike: lower case, short, no wildcard. */
export function uniqueName(prefix = "test"): string {
  return `${prefix}_${randomBytes(6).toString("hex")}`;
}

/** A client that misses a server soon which is cut off later, and waits for one now that is only busy. */
export async function impatientClient(uri: string, options: MongoClientOptions = {}): Promise<MongoClient> {
  const client = new MongoClient(uri, { serverSelectionTimeoutMS: 1000, ...options });
  await vi.waitFor(() => client.connect(), { timeout: 120_000, interval: 100 });
  return client;
}

import type { TestProject } from "vitest/node";

import { namedStores, startStores, type StoreAddresses } from "../../local/stores.ts";

declare module "vitest" {
  interface ProvidedContext {
    stores: StoreAddresses;
  }
}

/** Brings up throwaway stores for the whole run; those that `LUCID_…_URI` names are used as they are. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const stores = await startStores({ named: namedStores(process.env) });
  const { mongodbUri, redisUri, searchUri } = stores;
  project.provide("stores", { mongodbUri, redisUri, searchUri });
  return async () => stores[Symbol.asyncDispose]();
}

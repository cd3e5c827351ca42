import type { TestProject } from "vitest/node";

import { namedStores, startStores, type StoreAddresses } from "../../local/stores.ts";
import { offerElasticsearch } from "./elasticsearch.ts";

declare module "vitest" {
  interface ProvidedContext {
    stores: StoreAddresses;
    /** Where to ask for Elasticsearch. */
    elasticsearch: string;
  }
}

/** Brings up throwaway stores for the whole run; those that `LUCID_…_URI` names are used as they are. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  await using stack = new AsyncDisposableStack();
  const offer = stack.use(await offerElasticsearch());
  const stores = stack.use(await startStores({ named: namedStores(process.env) }));
  const { mongodbUri, redisUri, searchUri } = stores;
  project.provide("stores", { mongodbUri, redisUri, searchUri });
  project.provide("elasticsearch", offer.url);
  const running = stack.move();
  return async () => running.disposeAsync();
}

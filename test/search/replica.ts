// A process of its own that works on jobs of indices, to be killed by a test: it stops for good at its third bulk request, or just
// before versions are swapped.
import { MongoClient } from "mongodb";

import { indexCatalog } from "../../src/search/index-catalog.ts";
import { indexJobs } from "../../src/search/index-jobs.ts";
import { searchIndices } from "../../src/search/indices.ts";
import { syncAccess } from "../../src/search/sync/access.ts";
import { openSearch } from "../../src/stores/search.ts";
import { longLeaseMs } from "../jobs/lease.ts";
import { jobsToBeKilled } from "../jobs/to-be-killed.ts";

const [mongodbUri, searchUri, prefix, domain, system, where] = process.argv.slice(2);
if (!mongodbUri || !searchUri || !prefix || !domain || !system)
  throw new Error("usage: replica.ts MONGODB SEARCH PREFIX DOMAIN SYSTEM bulk|swap");

let isStopped = false;
async function stop(): Promise<never> {
  // Nobody reads any more what is said later.
  if (!isStopped) process.stdout.write("half-way\n");
  isStopped = true;
  return new Promise<never>(() => undefined);
}

const client = await MongoClient.connect(mongodbUri);
const search = openSearch({ uri: searchUri });
const { transport } = search.client;
type Request = (params: { readonly path: string }, options: unknown) => Promise<unknown>;
const request = transport.request.bind(transport) as Request;
let bulks = 0;
const counted: Request = async (params, options) => {
  const isBulk = params.path.endsWith("_bulk");
  if (where === "bulk" && isBulk && bulks === 2) return stop();
  if (where === "swap" && params.path.endsWith("_aliases")) return stop();
  // Several are sent at once.
  if (isBulk) bulks += 1;
  try {
    return await request(params, options);
  } catch (error) {
    // One that failed is sent again.
    if (isBulk) bulks -= 1;
    throw error;
  }
};
// It is overloaded by what it returns, which only passes through here.
transport.request = counted as typeof transport.request;

const jobs = jobsToBeKilled(client.db(system));
const indices = searchIndices({ search, prefix });
const access = syncAccess({ search, indices, domain: client.db(domain), system: client.db(system) });
indexJobs({ jobs, search, catalog: indexCatalog({ search, prefix }), access, leaseMs: longLeaseMs });
jobs.start();

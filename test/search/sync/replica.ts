// A process of its own that keeps search indices, to be killed by a test.
import { MongoClient } from "mongodb";

import { messageOf, searchIndices } from "../../../src/search/indices.ts";
import { syncAccess } from "../../../src/search/sync/access.ts";
import { searchSync } from "../../../src/search/sync/sync.ts";
import { openSearch } from "../../../src/stores/search.ts";

const [mongodbUri = "", searchUri = "", domain = "", system = "", prefix = "", names = "", leaseMs = ""] =
  process.argv.slice(2);
const client = await MongoClient.connect(mongodbUri);
const search = openSearch({ uri: searchUri });
const indices = searchIndices({ search, prefix });
const log = {
  info: (facts: object, message: string) => process.stdout.write(`${message} ${JSON.stringify(facts)}\n`),
  warn: (facts: object, message: string) => process.stdout.write(`${message} ${JSON.stringify(facts)}\n`),
};
searchSync({
  access: syncAccess({ search, indices, domain: client.db(domain), system: client.db(system) }),
  leaseMs: Number(leaseMs),
  messages: names.split(",").map(messageOf),
  log,
  problemOf: String,
}).start();
process.stdout.write("ready\n");

// A process of its own that works on removals and stops after so many steps that change something, to be killed by a test.
import { Redis } from "ioredis";
import { Collection, type Db, MongoClient } from "mongodb";

import { storedMessages } from "../../../src/repository/collections.ts";
import { copies } from "../../../src/repository/lifecycle/copies.ts";
import { removalJobs } from "../../../src/repository/lifecycle/jobs.ts";
import { openSearch } from "../../../src/stores/search.ts";
import { jobsToBeKilled } from "../../jobs/to-be-killed.ts";

const [mongodbUri, redisUri, searchUri, jobsDatabase, database, steps] = process.argv.slice(2);
if (!mongodbUri || !redisUri || !searchUri || !jobsDatabase || !database)
  throw new Error("usage: replica.ts MONGODB REDIS SEARCH JOBS DATABASE STEPS");

const client = await MongoClient.connect(mongodbUri);
let left = Number(steps);
/** Never ends once there are no steps left. */
async function step(changed: number): Promise<void> {
  if (changed > 0) left -= 1;
  if (left > 0) return;
  process.stdout.write("half-way\n");
  await new Promise<never>(() => undefined);
}
const db = client.db(database);
const collection = ((name: string) => {
  const real = db.collection(name);
  const deleteMany: typeof real.deleteMany = async (...args) => {
    const result = await Collection.prototype.deleteMany.apply(real, args);
    await step(result.deletedCount);
    return result;
  };
  const updateMany: typeof real.updateMany = async (...args) => {
    const result = await Collection.prototype.updateMany.apply(real, args);
    await step(result.modifiedCount);
    return result;
  };
  return Object.defineProperties(real, { deleteMany: { value: deleteMany }, updateMany: { value: updateMany } });
}) as Db["collection"];

const jobs = jobsToBeKilled(client.db(jobsDatabase));
removalJobs({
  jobs,
  db: { collection },
  copies: copies({
    redis: { client: new Redis(redisUri) },
    search: openSearch({ uri: searchUri }),
    alias: (name) => `erased-${name}`,
  }),
  messages: storedMessages,
  isHeldUp: async () => false,
});
jobs.start();
process.stdout.write("ready\n");

// A process of its own that takes, and restores, backups of one database and stops half-way, to be killed by a test.
import { MongoClient } from "mongodb";

import { backupJobs } from "../../src/backup/backup-jobs.ts";
import { lazyRepository } from "../../src/backup/lazy-repository.ts";
import { jobsToBeKilled, silentLog } from "../jobs/to-be-killed.ts";
import { gate, gatedSource, gatedTarget, plainSource, plainTarget } from "./fixtures.ts";

const [uri, jobsDatabase, database, dir, keyFile, first] = process.argv.slice(2);
if (!uri || !jobsDatabase || !database || !dir || !keyFile)
  throw new Error("usage: replica.ts URI JOBS DATABASE DIR KEYFILE [FIRST]");

const client = await MongoClient.connect(uri);
const jobs = jobsToBeKilled(client.db(jobsDatabase), 2);
const repository = lazyRepository({ dir, keyFile, oldKeyFile: "" }, silentLog);
const half = gate();
const sources = [gatedSource(plainSource(client.db(database)), half, { first: Number(first ?? 1) })];
const targets = [gatedTarget(plainTarget(client), half)];
backupJobs({ jobs, repository: () => repository.open(), sources, targets, parallelism: 1 });
jobs.start();
process.stdout.write("ready\n");
await half.reached;
process.stdout.write("half-way\n");

import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";

import { create, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "vitest";

import { IndexJobSchema, IndexJobType } from "../../gen/lucid/search/v1/search_index_service_pb.ts";
import { waitUntil } from "../../local/wait.ts";
import { openJobs } from "../../src/jobs/jobs.ts";
import { indexCatalog } from "../../src/search/index-catalog.ts";
import { indexJobKind, indexJobOf, indexJobs } from "../../src/search/index-jobs.ts";
import { endLeases, longLeaseMs } from "../jobs/lease.ts";
import { concurrentlyOnEveryServer } from "../support/search-servers.ts";
import { storeAddresses } from "../support/stores.ts";
import { newUser, type SyncBed, syncBed } from "./sync/support.ts";

/** A replica that has come to where it stops for good. */
async function stopped(bed: SyncBed, uri: string, where: "bulk" | "swap") {
  const { mongodbUri } = storeAddresses();
  const databases = [bed.domain.databaseName, bed.system.databaseName];
  const file = join(import.meta.dirname, "replica.ts");
  const child = spawn(process.execPath, [file, mongodbUri, uri, bed.prefix, ...databases, where], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exited = once(child, "exit");
  for await (const text of child.stdout) if (String(text).includes("half-way")) break;
  const kill = async (): Promise<void> => {
    child.kill("SIGKILL");
    await exited;
  };
  return { kill, [Symbol.asyncDispose]: kill };
}

concurrentlyOnEveryServer((uri) => {
  test.for(["bulk", "swap"] as const)(
    "a rebuild whose replica is killed at its %s is taken over by another, which goes on",
    async (where) => {
      await using bed = await syncBed(uri);
      await bed.domain.collection("users").createIndex({ user_id: 1 }, { unique: true });
      await bed.domain.collection("users").insertMany(Array.from({ length: 3500 }, () => newUser()));
      const log = { info() {}, warn() {}, error() {} };
      const options = {
        db: bed.system,
        leaseMs: longLeaseMs,
        concurrency: 1,
        log,
        translate: (error: unknown) => error,
      };
      await using jobs = openJobs(options);
      const spec = toBinary(IndexJobSchema, create(IndexJobSchema, { type: IndexJobType.REBUILD, index: "users" }));
      await bed.indices.ensure("users", AbortSignal.timeout(150_000));
      const { jobId } = await jobs.create(indexJobKind, { jobId: "rebuild", spec });
      await using replica = await stopped(bed, uri, where);
      const written = async () => {
        const job = await jobs.find(indexJobKind, jobId);
        return job === undefined ? 0n : (indexJobOf(job).progress?.writtenCount ?? 0n);
      };
      // The second bulk may be one of changes.
      const hasWritten = await waitUntil(async () => (await written()) >= 1000n, { withinMs: 150_000 });
      expect(hasWritten, "the first bulk is told").toBe(true);
      await replica.kill();
      await endLeases(bed.system);
      const { search, prefix, access } = bed;
      indexJobs({ jobs, search, catalog: indexCatalog({ search, prefix }), access, leaseMs: longLeaseMs });
      jobs.start();
      const counts: bigint[] = [];
      const watch = { afterSequence: 0, heartbeatMs: 1000, signal: AbortSignal.timeout(200_000) };
      for await (const { state } of jobs.watch(indexJobKind, jobId, watch)) {
        expect(["PENDING", "RUNNING", "SUCCEEDED"]).toContain(state);
        counts.push(await written());
      }
      expect(await jobs.find(indexJobKind, jobId)).toMatchObject({ state: "SUCCEEDED", attempt: 2 });
      // What was filled before counts: there is no third version, and no second fill.
      const all = await search.client.indices.get({ index: `${bed.indices.alias("users")}*` });
      const places = Object.keys(all).map((place) => place.slice(prefix.length));
      expect(places.toSorted()).toEqual(["users-v1", "users-v2"]);
      expect(Math.min(...counts.map(Number))).toBeGreaterThanOrEqual(1000);
      expect(await bed.differences("users")).toEqual([]);
      bed.start();
      await bed.settled("users");
      expect((await access.states.find(bed.indices.alias("users")))?.index).toBe(`${prefix}users-v2`);
    },
  );
});

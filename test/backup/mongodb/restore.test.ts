import type { Db, Document } from "mongodb";
import { expect, test, vi } from "vitest";

import { ConflictPolicy } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { reasonOf } from "../../../src/errors.ts";
import { contentNames, rawContent, type Report, restore, type Rig, rig, take } from "./harness.ts";
import { type MemoryStreams, memoryStreams, quietWork } from "./memory.ts";

// Servers that look documents up slowly take their time.
vi.setConfig({ testTimeout: 180_000 });

interface Doc extends Document {
  _id: number;
}

const numbers = Array.from({ length: 1000 }, (_, index) => index);

/** A backup of `things` (1000 documents, 10 changed while it was taken) and `few` (1 document). */
async function backup(here: Rig) {
  const db = here.database();
  const things = db.collection<Doc>("things");
  await things.insertMany(numbers.map((_id) => ({ _id, of: "backup" })));
  await things.createIndex({ of: 1 });
  await db.collection<Doc>("few").insertOne({ _id: 1, of: "backup" });
  const streams = memoryStreams();
  const { units } = await take(here, [db.databaseName], streams, {
    async begun() {
      await things.updateMany({ _id: { $lt: 9 } }, { $set: { changed: true } });
      await things.deleteOne({ _id: 9 });
    },
  });
  return { db, units, streams };
}

/** A database with a collection `things` in which there is something else. */
async function occupied(here: Rig): Promise<Db> {
  const db = here.database();
  await db.collection<Doc>("things").insertMany([5, 9, 5000].map((_id) => ({ _id, of: "before" })));
  await db.collection<Doc>("things").createIndex({ other: 1 });
  return db;
}

async function failure(work: Promise<unknown>): Promise<unknown> {
  try {
    await work;
  } catch (error) {
    return reasonOf(error) ?? error;
  }
  throw new Error("It did not fail");
}

test("FAIL names what is there and changes nothing", async () => {
  await using here = await rig();
  const { db, units, streams } = await backup(here);
  const target = await occupied(here);
  const renames = [[db.databaseName, target.databaseName]] as const;
  const before = await rawContent(target, "things");
  expect(await failure(restore(here, units, streams, { renames }))).toEqual({
    reason: "RESTORE_CONFLICT",
    metadata: {
      store: "mongodb",
      conflicts: `${target.databaseName}.things`,
      conflict_count: "1",
      registry_code: "LUCID_ERR_5006",
    },
  });
  expect(await rawContent(target, "things")).toEqual(before);
  expect(await contentNames(target)).toEqual(["things"]);
});

test("DROP puts the backup in the place of what is there", async () => {
  await using here = await rig();
  const { db, units, streams } = await backup(here);
  const target = await occupied(here);
  const renames = [[db.databaseName, target.databaseName]] as const;
  const report = await restore(here, units, streams, { renames, policy: ConflictPolicy.DROP });
  expect(report).toMatchObject([
    { source: `${db.databaseName}.few`, equal: true, expectedItems: 1n, writtenItems: 1n, equalItems: 1n, remark: "" },
    {
      target: `${target.databaseName}.things`,
      equal: true,
      expectedItems: 999n,
      writtenItems: 999n,
      equalItems: 999n,
      remark: "",
    },
  ]);
  expect(await rawContent(target, "things")).toEqual(await rawContent(db, "things"));
  expect((await target.collection("things").indexes()).map(({ name }) => name)).toEqual(["_id_", "of_1"]);
  expect(await contentNames(target)).toEqual(["few", "things"]);
});

test("OVERWRITE replaces single documents, keeps the others, and may be repeated", async () => {
  await using here = await rig();
  const { db, units, streams } = await backup(here);
  const target = await occupied(here);
  const renames = [[db.databaseName, target.databaseName]] as const;
  for (const _ of ["once", "again"]) {
    const report = await restore(here, units, streams, { renames, policy: ConflictPolicy.OVERWRITE });
    expect(report).toMatchObject([
      { equal: true, expectedItems: 1n, writtenItems: 1n, equalItems: 1n },
      { equal: true, expectedItems: 999n, writtenItems: 999n, equalItems: 999n, skippedItems: 0n },
    ]);
    // 9 was deleted before the backup's time: it is none of its documents.
    const kept = await target.collection<Doc>("things").find({ of: "before" }).toArray();
    expect(kept.map(({ _id }) => _id)).toEqual([9, 5000]);
    expect(await target.collection<Doc>("things").findOne({ _id: 5 })).toEqual({ _id: 5, of: "backup", changed: true });
    expect(await contentNames(target)).toEqual(["few", "things"]);
  }
});

test("SKIP adds what is missing and leaves what is there", async () => {
  await using here = await rig();
  const { db, units, streams } = await backup(here);
  const target = await occupied(here);
  const renames = [[db.databaseName, target.databaseName]] as const;
  const report = await restore(here, units, streams, { renames, policy: ConflictPolicy.SKIP });
  expect(report).toMatchObject([
    { equal: true, writtenItems: 1n, skippedItems: 0n, equalItems: 1n },
    { equal: true, expectedItems: 999n, writtenItems: 998n, skippedItems: 1n, equalItems: 998n },
  ]);
  const kept = await target.collection<Doc>("things").find({ of: "before" }).toArray();
  expect(kept.map(({ _id }) => _id)).toEqual([5, 9, 5000]);
  expect(await target.collection("things").countDocuments()).toBe(1001);
  const names = (await target.collection("things").indexes()).map(({ name }) => name);
  expect(new Set(names)).toEqual(new Set(["_id_", "of_1", "other_1"]));
});

test.for<[what: string, to: string]>([
  ["a database of the server's own", "admin"],
  ["the service's own database", "lucid_system"],
  ["a name that is too long", `${"d".repeat(60)}.${"c".repeat(200)}`],
])("nothing is restored into %s", async ([, to]) => {
  await using here = await rig();
  const { db, units, streams } = await backup(here);
  const name = to === "lucid_system" ? here.systemDatabase : to;
  const rename = name.includes(".") ? ([`${db.databaseName}.few`, name] as const) : ([db.databaseName, name] as const);
  expect(await failure(restore(here, units, streams, { renames: [rename] }))).toMatchObject({
    reason: "RESTORE_REFUSED",
  });
});

/** Streams of which reading breaks after so many records of documents. */
function breaking(streams: MemoryStreams, after: number): MemoryStreams {
  let count = 0;
  return {
    ...streams,
    async *records(stream, signal) {
      for await (const batch of streams.records(stream, signal)) {
        count += batch.length;
        if (count > after) throw new Error("The repository broke");
        yield batch;
      }
    },
  };
}

test("a restore that breaks says what is in place", async () => {
  await using here = await rig();
  const { db, units, streams } = await backup(here);
  const target = here.database();
  const renames = [[db.databaseName, target.databaseName]] as const;
  let report: Report = [];
  const work = restore(here, units, breaking(streams, 501), {
    renames,
    work: quietWork({ parallelism: 1 }),
    reported: (one) => (report = one),
  });
  await expect(work).rejects.toThrow("The repository broke");
  expect(report).toMatchObject([
    { source: `${db.databaseName}.few`, equal: false, writtenItems: 1n },
    {
      source: `${db.databaseName}.things`,
      equal: false,
      expectedItems: 999n,
      writtenItems: 500n,
      remark: "500 documents were loaded, changes not applied",
    },
  ]);
  expect(await target.collection("things").countDocuments()).toBe(500);
});

test("a restore that breaks leaves what it was to replace", async () => {
  await using here = await rig();
  const { db, units, streams } = await backup(here);
  const target = await occupied(here);
  const before = await rawContent(target, "things");
  let report: Report = [];
  const things = units.filter(({ name }) => !name.endsWith(".few"));
  const work = restore(here, things, breaking(streams, 500), {
    renames: [[db.databaseName, target.databaseName]],
    policy: ConflictPolicy.DROP,
    reported: (one) => (report = one),
  });
  await expect(work).rejects.toThrow("The repository broke");
  expect(report).toMatchObject([
    { remark: "500 documents were loaded, changes not applied; what was there is untouched", equal: false },
  ]);
  expect(await rawContent(target, "things")).toEqual(before);
  expect(await contentNames(target)).toEqual(["things"]);
});

test("a difference is found", async () => {
  await using here = await rig();
  const { db, units, streams } = await backup(here);
  const target = here.database();
  // Somebody writes while documents are restored.
  let disturbed = false;
  const disturbing: MemoryStreams = {
    ...streams,
    async *records(stream, signal) {
      yield* streams.records(stream, signal);
      if (disturbed || (await target.collection("things").countDocuments()) === 0) return;
      disturbed = true;
      // The document is on its way, if not there yet.
      const disturb = () => target.collection<Doc>("things").updateOne({ _id: 500 }, { $set: { of: "nobody" } });
      while ((await disturb()).matchedCount === 0) signal.throwIfAborted();
    },
  };
  const report = await restore(here, units, disturbing, { renames: [[db.databaseName, target.databaseName]] });
  const [few, things] = report;
  expect(few).toMatchObject({ equal: true });
  expect(things).toMatchObject({
    equal: false,
    expectedItems: 999n,
    remark: "999 documents are there, not all as expected",
  });
  expect(things?.equalItems).toBeLessThan(999n);
  expect(things?.equalItems).toBeGreaterThan(900n);
});

import { setTimeout as pause } from "node:timers/promises";

import type { Document } from "bson";
import { expect, test } from "vitest";

import { fail, reasonOf } from "../../src/errors.ts";
import { digestField, keyField, removedField } from "../../src/schema/search-mapping.ts";
import { searchIndices } from "../../src/search/indices.ts";
import { type RebuildProgress, type RebuildWork, rebuildIndex, rollBackIndex } from "../../src/search/rebuild.ts";
import { syncAccess } from "../../src/search/sync/access.ts";
import { statesCollection } from "../../src/search/sync/state.ts";
import { openSearch } from "../../src/stores/search.ts";
import { cuttable } from "../jobs/proxy.ts";
import { onEveryServer } from "../support/search-servers.ts";
import { change, newUser, type SyncBed, syncBed } from "./sync/support.ts";

const leaseMs = 8000;

/** A job of which nothing is stored but what it keeps. */
function work(more: Partial<RebuildWork> = {}): RebuildWork & { readonly last: () => Uint8Array | undefined } {
  let kept: Uint8Array | undefined;
  return {
    signal: AbortSignal.timeout(120_000),
    kept: undefined,
    keep: (position) => {
      kept = position;
    },
    progress: () => undefined,
    prove: () => Promise.resolve(),
    last: () => kept,
    ...more,
  };
}

/** What searches find of a document, as a caller would see it. */
async function found({ search, indices }: SyncBed, id: string): Promise<number | undefined> {
  const query = { bool: { filter: [{ term: { user_id: id } }], must_not: [{ term: { [removedField]: true } }] } };
  const request = { index: indices.alias("users"), query, _source: ["revision"], allow_partial_search_results: false };
  const { hits } = await search.client.search<{ revision: number }>(request);
  return hits.hits[0]?._source?.revision;
}

async function liveVersions({ search, indices }: SyncBed): Promise<string[]> {
  const alias = indices.alias("users");
  return Object.keys(await search.client.indices.getAlias({ name: alias })).map((place) => place.slice(alias.length));
}

async function versions({ search, indices }: SyncBed): Promise<string[]> {
  const alias = indices.alias("users");
  const all = await search.client.indices.get({ index: `${alias}-v*` });
  return Object.keys(all)
    .map((place) => place.slice(alias.length))
    .toSorted();
}

async function users(bed: SyncBed, count: number): Promise<string[]> {
  const documents: Document[] = Array.from({ length: count }, () => newUser());
  await bed.domain.collection("users").createIndex({ user_id: 1 }, { unique: true });
  await bed.domain.collection("users").insertMany(documents);
  return documents.map(({ user_id: id }) => String(id));
}

/** Makes the version that a rollback brings back one that an earlier release made, which did not declare a field yet. */
async function withoutField({ search: { client }, access, indices, system }: SyncBed, field: string): Promise<void> {
  const alias = indices.alias("users");
  const { previous } = (await access.states.find(alias)) ?? {};
  const index = previous?.index ?? "";
  const { mappings } = (await client.indices.get({ index }))[index] ?? {};
  const { [field]: _, ...properties } = mappings?.properties ?? {};
  const _meta = { ...mappings?._meta, digest: "of an earlier release" };
  const { hits } = await client.search<Record<string, unknown>>({ index, size: 10_000, version: true });
  await client.indices.delete({ index });
  await client.indices.create({ index, mappings: { ...mappings, _meta, properties } });
  const operations = hits.hits.flatMap(({ _id: id, _version: version, _source }) => {
    const { [field]: __, [digestField]: ___, ...source } = _source ?? {};
    return [{ index: { _id: id, version, version_type: "external" as const } }, source];
  });
  await client.bulk({ index, operations, refresh: true });
  const uuid = (await client.indices.get({ index }))[index]?.settings?.index?.uuid ?? "";
  const earlier = { "previous.uuid": uuid, "previous.digest": "of an earlier release" };
  await system.collection<{ _id: string }>(statesCollection).updateOne({ _id: alias }, { $set: earlier });
}

onEveryServer((uri) => {
  test("under full write load no search misses a document or finds an earlier state, and both sides are equal", async () => {
    await using bed = await syncBed(uri, leaseMs);
    const ids = await users(bed, 1200);
    bed.start();
    await bed.settled("users");
    const ending = new AbortController();
    let [writes, searches] = [0, 0];
    const wrong: string[] = [];
    const pick = () => ids[Math.floor(Math.random() * ids.length)] ?? "";
    const writer = async (): Promise<void> => {
      while (!ending.signal.aborted) {
        await change(bed.domain, "users", { user_id: pick() }, { username: `n${writes}` });
        if (writes++ % 10 === 0) {
          const short = newUser();
          await bed.domain.collection("users").insertOne(short);
          await bed.domain.collection("users").deleteOne({ user_id: short["user_id"] });
        }
      }
    };
    const seen = new Map<string, number>();
    const searcher = async (): Promise<void> => {
      while (!ending.signal.aborted) {
        const id = pick();
        const before = seen.get(id) ?? 1;
        const revision = await found(bed, id);
        if (revision === undefined || revision < before) wrong.push(`${id}: ${before} then ${revision}`);
        seen.set(id, Math.max(revision ?? 0, seen.get(id) ?? 1));
        searches++;
        // So that searches leave the stores some room for writes.
        await pause(5);
      }
    };
    const running = [writer(), writer(), searcher(), searcher()];
    const phases = new Set<string>();
    const progress = ({ phase }: RebuildProgress) => void phases.add(phase);
    await rebuildIndex("users", { access: bed.access, leaseMs }, work({ progress }));
    expect(await liveVersions(bed)).toEqual(["-v2"]);
    // For a while after the swap too.
    const enough = searches + 100;
    await expect.poll(() => searches, { timeout: 60_000 }).toBeGreaterThan(enough);
    ending.abort();
    await Promise.all(running);
    expect(wrong).toEqual([]);
    expect(writes).toBeGreaterThan(20);
    expect([...phases]).toEqual(["filling", "comparing", "swapping"]);
    await bed.settled("users");
    // The synchronisation went on; it has filled nothing anew.
    expect(await bed.access.states.find(bed.indices.alias("users"))).toMatchObject({ resyncs: 1, phase: "following" });
    expect(await versions(bed)).toEqual(["-v1", "-v2"]);
  });

  test("the version before comes back with what has changed since, and the one after that goes", async () => {
    await using bed = await syncBed(uri, leaseMs);
    const [first = "", second = ""] = await users(bed, 50);
    bed.start();
    await bed.settled("users");
    const options = { access: bed.access, leaseMs };
    const refused: unknown = await rollBackIndex("users", options, work()).catch((error: unknown) => error);
    expect(reasonOf(refused)?.reason).toBe("SEARCH_NO_PREVIOUS_VERSION");
    await rebuildIndex("users", options, work());
    await change(bed.domain, "users", { user_id: first }, { username: "changed" });
    await bed.domain.collection("users").deleteOne({ user_id: second });
    await bed.settled("users");
    await rollBackIndex("users", options, work());
    expect(await liveVersions(bed)).toEqual(["-v1"]);
    // At once, before anything else is brought.
    expect(await found(bed, first)).toBe(2);
    expect(await found(bed, second)).toBeUndefined();
    await change(bed.domain, "users", { user_id: first }, { username: "again" });
    await bed.settled("users");
    await rebuildIndex("users", options, work());
    expect(await liveVersions(bed)).toEqual(["-v3"]);
    expect(await versions(bed)).toEqual(["-v1", "-v3"]);
    expect(await bed.differences("users")).toEqual([]);
  });

  test("a rebuild that broke off goes on where it was, and one that was cancelled leaves nothing", async () => {
    await using bed = await syncBed(uri, leaseMs);
    await users(bed, 1500);
    bed.start();
    await bed.settled("users");
    const options = { access: bed.access, leaseMs };
    const broken = new AbortController();
    const first = work({
      signal: broken.signal,
      progress: ({ filled }) => {
        if (filled >= 1000) broken.abort(new Error("The process is gone"));
      },
    });
    await expect(rebuildIndex("users", options, first)).rejects.toThrow("The process is gone");
    const kept = first.last();
    const counts: number[] = [];
    const again = work({ kept, progress: ({ filled }) => void counts.push(filled) });
    await rebuildIndex("users", options, again);
    // The last page was on its way.
    expect([1000, 1500]).toContain(counts[0]);
    expect(await liveVersions(bed)).toEqual(["-v2"]);
    expect(await bed.differences("users")).toEqual([]);
    // Run again with what it has kept, as after a crash right behind the swap, it does nothing.
    await rebuildIndex("users", options, work({ kept: again.last() }));
    expect(await versions(bed)).toEqual(["-v1", "-v2"]);
    const stop = new AbortController();
    const cancelled = work({ signal: stop.signal, progress: () => stop.abort(fail("CANCELLED", "It was cancelled")) });
    await expect(rebuildIndex("users", options, cancelled)).rejects.toThrow("It was cancelled");
    expect(await versions(bed)).toEqual(["-v1", "-v2"]);
    await bed.settled("users");
  });

  test("a rebuild waits for a search server that is away, and goes on where it was", async () => {
    await using bed = await syncBed(uri, leaseMs);
    await using wire = await cuttable(uri);
    await using search = openSearch({ uri: wire.uri });
    await users(bed, 300);
    bed.start();
    await bed.settled("users");
    const { domain, system, prefix } = bed;
    const access = syncAccess({ search, indices: searchIndices({ search, prefix }), domain, system });
    const filled: number[] = [];
    let isCut = false;
    const progress = (now: RebuildProgress): void => {
      filled.push(now.filled);
      if (isCut || now.phase !== "comparing") return;
      isCut = true;
      wire.cut();
      void wire.refused().then(() => wire.mend());
    };
    await rebuildIndex("users", { access, leaseMs }, work({ progress }));
    expect(isCut).toBe(true);
    expect(Math.max(...filled)).toBe(300);
    expect(await liveVersions(bed)).toEqual(["-v2"]);
    expect(await bed.differences("users")).toEqual([]);
  });

  test("a rebuild that another process's right came between takes its own again, and ends", async () => {
    await using bed = await syncBed(uri, leaseMs);
    await users(bed, 10);
    bed.start();
    await bed.settled("users");
    let taken = 0;
    const prove = async (): Promise<void> => {
      if (++taken > 1) return;
      // As if its own had run out while a store was away, just before the swap.
      await bed.system.collection("search_sync").updateMany({}, { $inc: { fence: 2 } });
    };
    await rebuildIndex("users", { access: bed.access, leaseMs }, work({ prove }));
    expect(taken).toBe(1);
    expect(await liveVersions(bed)).toEqual(["-v2"]);
    expect(await bed.differences("users")).toEqual([]);
    await bed.settled("users");
  });

  test("what the version before has refused and the new one takes is no dead letter any more", async () => {
    await using bed = await syncBed(uri, leaseMs);
    const [first = ""] = await users(bed, 5);
    bed.start();
    await bed.settled("users");
    const { deadLetters } = bed.access;
    const source = await bed.domain.collection("users").findOne({ user_id: first });
    const about = { source_id: source?._id, document_id: first, revision: 1n };
    const why = { error_type: "mapper_parsing_exception", cause_type: "", field: "status" };
    await deadLetters.record("users", [{ key: String(source?._id), ...about, ...why }]);
    expect(await deadLetters.count("users")).toBe(1);
    await rebuildIndex("users", { access: bed.access, leaseMs }, work());
    expect(await deadLetters.count("users")).toBe(0);
    expect(await found(bed, first)).toBe(1);
  });

  test("the version before does not come back without what it refuses, also where its replica died behind that", async () => {
    await using bed = await syncBed(uri, leaseMs);
    const signal = AbortSignal.timeout(120_000);
    // As a version before declared a field of another kind.
    const { indices } = bed.search.client;
    const index = await bed.indices.makeNext("users", signal);
    const { mappings = {} } = (await indices.get({ index }))[index] ?? {};
    await indices.delete({ index });
    const properties = { ...mappings.properties, username: { type: "long" } };
    const aliases = { [bed.indices.alias("users")]: {} };
    await indices.create({ index, mappings: { ...mappings, properties } as object, aliases });
    await bed.domain.collection("users").createIndex({ user_id: 1 }, { unique: true });
    await bed.domain.collection("users").insertOne(newUser({ user_id: "u1", username: "1" }));
    bed.start();
    await bed.settled("users");
    const options = { access: bed.access, leaseMs };
    await rebuildIndex("users", options, work());
    await change(bed.domain, "users", { user_id: "u1" }, { username: "no number" });
    await bed.settled("users");
    const broken = new AbortController();
    const first = work({
      signal: broken.signal,
      progress: ({ refused }) => {
        if (refused > 0) broken.abort(new Error("The process is gone"));
      },
    });
    await expect(rollBackIndex("users", options, first)).rejects.toThrow("The process is gone");
    const failed: unknown = await rollBackIndex("users", options, work({ kept: first.last() })).catch(
      (error: unknown) => error,
    );
    expect(reasonOf(failed)).toMatchObject({ reason: "SEARCH_COPY_INCOMPLETE", metadata: { refused_count: "1" } });
    expect(await liveVersions(bed)).toEqual(["-v2"]);
    await bed.settled("users");
  });

  test("a version from before fields were added gets them, and all that they hold, before it comes back", async () => {
    await using bed = await syncBed(uri, leaseMs);
    const [named = "", later = "", gone = ""] = await users(bed, 30);
    await change(bed.domain, "users", { user_id: named }, { created_by: "unchanged" });
    bed.start();
    await bed.settled("users");
    const options = { access: bed.access, leaseMs };
    await rebuildIndex("users", options, work());
    await withoutField(bed, "created_by");
    await change(bed.domain, "users", { user_id: later }, { created_by: "changed" });
    await bed.domain.collection("users").deleteOne({ user_id: gone });
    await bed.settled("users");
    const broken = new AbortController();
    const first = work({ signal: broken.signal, progress: () => broken.abort(new Error("The process is gone")) });
    await expect(rollBackIndex("users", options, first)).rejects.toThrow("The process is gone");
    await rollBackIndex("users", options, work({ kept: first.last() }));
    expect(await liveVersions(bed)).toEqual(["-v1"]);
    // At once, before anything else is brought.
    expect(await bed.differences("users")).toEqual([]);
    const state = await bed.access.states.find(bed.indices.alias("users"));
    expect(state).toMatchObject({ resyncs: 1, phase: "following" });
    await bed.settled("users");
  });

  test("a new version that refuses what the live one took does not take its place", async () => {
    await using bed = await syncBed(uri, leaseMs);
    await users(bed, 20);
    bed.start();
    await bed.settled("users");
    const { indices } = bed;
    // As if a field were declared of another kind now.
    const makeNext: typeof indices.makeNext = async (name, signal, aliases) => {
      const index = indices.versioned(name, 2);
      const properties = { user_id: { type: "keyword" }, [keyField]: { type: "keyword" }, username: { type: "long" } };
      await bed.search.client.indices.create({ index, mappings: { properties } as object, aliases: aliases ?? {} });
      return index;
    };
    const access = { ...bed.access, indices: { ...indices, makeNext } };
    const failed: unknown = await rebuildIndex("users", { access, leaseMs }, work()).catch((error: unknown) => error);
    expect(reasonOf(failed)).toMatchObject({ reason: "SEARCH_COPY_INCOMPLETE", metadata: { refused_count: "20" } });
    expect(await versions(bed)).toEqual(["-v1"]);
    expect(await bed.access.deadLetters.count("users")).toBe(0);
    await bed.settled("users");
  });
});

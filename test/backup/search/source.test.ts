import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";

import { ConflictPolicy } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { UnitSchema } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { readTemplates, templatesUnit } from "../../../src/backup/search/templates.ts";
import { openSearch } from "../../../src/stores/search.ts";
import { refusingProxy } from "../../search/refusing-proxy.ts";
import { onEveryServer } from "../../support/search-servers.ts";
import { memoryStreams, quietWork } from "../mongodb/memory.ts";
import { failureOf } from "../repository/support.ts";
import { backedUp, type Cluster, clusterAt, contents, prepared, restored } from "./support.ts";

/** Indexes `count` documents from `from` on, and makes them visible. */
async function index(cluster: Cluster, name: string, count: number, { from = 0, filler = "" } = {}): Promise<void> {
  for (let at = from; at < from + count; at += 2000) {
    const lines: string[] = [];
    for (let number = at; number < Math.min(at + 2000, from + count); number++) {
      lines.push(`{"index":{"_id":"${number}"}}`, `{"number":${number},"text":"${filler}"}`);
    }
    await cluster.request("POST", `/${name}/_bulk`, `${lines.join("\n")}\n`);
  }
  await cluster.request("POST", `/${name}/_refresh`);
}

const settings = { number_of_shards: 2, number_of_replicas: 0 };

/** Points in time that the server keeps, of whomever. */
async function openContexts({ search }: Cluster): Promise<number> {
  const { nodes } = await search.client.nodes.stats({ metric: "indices", index_metric: "search" });
  return Object.values(nodes).reduce((sum, node) => sum + (node.indices?.search?.open_contexts ?? 0), 0);
}

onEveryServer((uri) => {
  test("50,000 documents of all sizes are as they were at the cut, while writers write", async () => {
    await using cluster = await clusterAt(uri);
    const name = `${cluster.prefix}-many`;
    await cluster.request("PUT", `/${name}`, { settings });
    await index(cluster, name, 49_900);
    await index(cluster, name, 80, { from: 49_900, filler: "x".repeat(100_000) });
    await index(cluster, name, 20, { from: 49_980, filler: "x".repeat(1_000_000) });
    const expected = await contents(cluster, name);
    expect(expected.size).toBe(50_000);
    const write = async (): Promise<void> => {
      await index(cluster, name, 3000, { from: 49_000, filler: "changed" });
      await cluster.request("DELETE", `/${name}/_doc/1`);
    };
    const backup = await backedUp(cluster, [name], { afterCut: write });
    expect(backup.units).toMatchObject([{ name, recordCount: 50_000n, streams: { length: 3 } }]);
    expect(await restored(cluster, backup, { renames: [[name, `${name}-copy`]] })).toMatchObject([
      { equal: true, remark: "", equalItems: 50_000n },
    ]);
    expect(await contents(cluster, `${name}-copy`)).toEqual(expected);
  });

  test("a server that turns each request away once is asked again", async () => {
    await using cluster = await clusterAt(uri);
    const name = `${cluster.prefix}-away`;
    await cluster.request("PUT", `/${name}`, { settings });
    await index(cluster, name, 3000);
    await using proxy = await refusingProxy(uri);
    await using search = openSearch({ uri: proxy.uri });
    const seen = new Set<string>();
    proxy.refuses = (method, path) => {
      const request = `${method} ${path.replace(/\?.*/, "")}`;
      if (seen.has(request)) return undefined;
      seen.add(request);
      return { status: 503, body: { status: 503 } };
    };
    const backup = await backedUp({ ...cluster, search }, [name]);
    expect(backup.units).toMatchObject([{ name, recordCount: 3000n }]);
    expect(seen.size).toBeGreaterThan(6);
  });

  test("indices are selected by name, pattern and alias; hidden ones only by their name", async () => {
    await using cluster = await clusterAt(uri);
    const { prefix } = cluster;
    await cluster.request("PUT", `/${prefix}-a`, { settings });
    await cluster.request("PUT", `/${prefix}-b`, { settings, aliases: { [`${prefix}-alias`]: {} } });
    await cluster.request("PUT", `/${prefix}-hidden`, { settings: { ...settings, hidden: true } });
    const names = async (patterns: string[]) => (await backedUp(cluster, patterns)).units.map(({ name }) => name);
    expect(await names([`${prefix}*`])).toEqual([`${prefix}-a`, `${prefix}-b`]);
    expect(await names([`${prefix}-alias`, `${prefix}-b`])).toEqual([`${prefix}-b`]);
    expect(await names([`${prefix}-hid*`])).toEqual([]);
    expect(await names([`${prefix}-hidden`])).toEqual([`${prefix}-hidden`]);
    expect(await failureOf(() => names([`${prefix}-c`]))).toMatchObject({
      reason: "BACKUP_SELECTION_EMPTY",
      metadata: { index: `${prefix}-c` },
    });
  });

  test.for([
    ["keeps no source", { _source: { enabled: false } }],
    ["keeps a part of it", { _source: { excludes: ["secret"] } }],
    ["keeps only some fields", { _source: { includes: ["public"] } }],
  ])("an index that %s is refused before anything is written", async ([, mappings]) => {
    await using cluster = await clusterAt(uri);
    const name = `${cluster.prefix}-bad`;
    await cluster.request("PUT", `/${name}`, { settings, mappings });
    const streams = memoryStreams({ onWrite: () => Promise.reject(new Error("written")) });
    expect(await failureOf(() => backedUp(cluster, [name], { streams }))).toMatchObject({
      reason: "BACKUP_INDEX_UNREADABLE",
      metadata: { index: name },
    });
  });

  test("a closed index is refused instead of being left out", async () => {
    await using cluster = await clusterAt(uri);
    const name = `${cluster.prefix}-closed`;
    await cluster.request("PUT", `/${name}`, { settings });
    await cluster.request("POST", `/${name}/_close`);
    expect(await failureOf(() => backedUp(cluster, [`${cluster.prefix}*`]))).toMatchObject({
      reason: "BACKUP_INDEX_UNREADABLE",
    });
  });

  test("a point in time that is lost on the way ends the backup, and an index that is deleted does", async () => {
    await using cluster = await clusterAt(uri);
    const name = `${cluster.prefix}-lost`;
    await cluster.request("PUT", `/${name}`, { settings });
    await index(cluster, name, 3000, { filler: "x".repeat(100) });
    let writes = 0;
    const streams = memoryStreams({
      onWrite: async () => {
        if (++writes === 1) await cluster.request("DELETE", `/${name}`);
      },
    });
    expect(await failureOf(() => backedUp(cluster, [name], { streams }))).toMatchObject({
      reason: "BACKUP_SOURCE_CHANGED",
      metadata: { index: name },
    });
    expect(writes).toBe(1);
  });

  test("points in time are given back, also by a backup that is stopped", async () => {
    await using cluster = await clusterAt(uri);
    const name = `${cluster.prefix}-pits`;
    await cluster.request("PUT", `/${name}`, { settings });
    await index(cluster, name, 100);
    const stop = new AbortController();
    const streams = memoryStreams({ onWrite: async () => stop.abort(new Error("stopped")) });
    const work = quietWork({ signal: stop.signal });
    let during = 0;
    const afterCut = async (): Promise<void> => void (during = await openContexts(cluster));
    await expect(backedUp(cluster, [name], { streams, work, afterCut })).rejects.toThrow("stopped");
    expect(during).toBeGreaterThanOrEqual(2);
    // Other tests have some too; they end.
    while ((await openContexts(cluster)) >= during) await cluster.request("GET", "/_cluster/health");
  });

  test("templates come back, without those of the server; another one of the name is a conflict", async () => {
    await using cluster = await clusterAt(uri);
    const { prefix, request } = cluster;
    const component = {
      template: { settings: { refresh_interval: "33s" }, mappings: { properties: { a: { type: "keyword" } } } },
    };
    const template = {
      index_patterns: [`${prefix}-x*`],
      composed_of: [`${prefix}-part`],
      priority: 777,
      _meta: { big: 1 },
    };
    await request("PUT", `/_component_template/${prefix}-part`, component);
    await request("PUT", `/_index_template/${prefix}-whole`, template);
    const signal = AbortSignal.timeout(150_000);
    const all = await readTemplates(cluster.search.client, signal);
    const own = (templates: ReadonlyMap<string, string> = new Map()) =>
      new Map([...templates].filter(([name]) => name.startsWith(prefix)));
    const templates = { component: own(all?.component), index: own(all?.index) };
    const backup = { units: [create(UnitSchema, templatesUnit(templates))], streams: memoryStreams(), cut: {} };
    // Without what Elasticsearch says of when it was made and changed.
    const whole = async () => {
      const told = await request("GET", `/_index_template/${prefix}-whole`);
      return JSON.stringify(told, (name, value: unknown) => (/_date(_millis)?$/.test(name) ? undefined : value));
    };
    const before = await whole();

    expect(await restored(cluster, backup)).toMatchObject([{ equal: true, expectedItems: 2n, writtenItems: 0n }]);
    await request("DELETE", `/_index_template/${prefix}-whole`);
    await request("DELETE", `/_component_template/${prefix}-part`);
    expect(await restored(cluster, backup)).toMatchObject([{ equal: true, writtenItems: 2n, equalItems: 2n }]);
    expect(await whole()).toBe(before);

    await request("PUT", `/_index_template/${prefix}-whole`, { ...template, priority: 778 });
    expect(await failureOf(() => prepared(cluster, backup))).toMatchObject({ reason: "RESTORE_CONFLICT" });
    const skip = await restored(cluster, backup, { policy: ConflictPolicy.SKIP });
    expect(skip).toMatchObject([{ equal: true, skippedItems: 1n }]);
    const overwrite = await restored(cluster, backup, { policy: ConflictPolicy.OVERWRITE });
    expect(overwrite).toMatchObject([{ equal: true, writtenItems: 1n }]);
    expect(await whole()).toBe(before);
  });
});

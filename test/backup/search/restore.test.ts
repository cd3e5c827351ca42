import { expect, test } from "vitest";

import { ConflictPolicy } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { onEveryServer } from "../../support/search-servers.ts";
import { failureOf } from "../repository/support.ts";
import {
  backedUp,
  type Cluster,
  clusterAt,
  contents,
  prepared,
  reportOf,
  restored,
  type TakenBackup,
} from "./support.ts";

/** An index of 30 documents with an alias, and its backup. */
async function small(cluster: Cluster): Promise<{ name: string; alias: string; backup: TakenBackup }> {
  const name = `${cluster.prefix}-v1`;
  const alias = `${cluster.prefix}-live`;
  await cluster.request("PUT", `/${name}`, {
    settings: { number_of_replicas: 0 },
    mappings: { properties: { number: { type: "integer" } } },
    aliases: { [alias]: {} },
  });
  for (let number = 0; number < 30; number++) await cluster.request("PUT", `/${name}/_doc/${number}`, { number });
  return { name, alias, backup: await backedUp(cluster, [name]) };
}

async function aliasesOf({ search, prefix }: Cluster): Promise<Record<string, string[]>> {
  const all = await search.client.indices.getAlias({});
  const own = Object.entries(all).filter(([index]) => index.startsWith(prefix));
  return Object.fromEntries(own.map(([index, { aliases }]) => [index, Object.keys(aliases).toSorted()]));
}

onEveryServer((uri) => {
  test("with FAIL, an index or an alias that is there ends a restore before anything is changed", async () => {
    await using cluster = await clusterAt(uri);
    const { name, alias, backup } = await small(cluster);
    const before = await aliasesOf(cluster);
    const conflicts = async (renames: (readonly [string, string])[] = []) => {
      const { reason, metadata } = await failureOf(() => prepared(cluster, backup, { renames }));
      return [reason, metadata["conflicts"]];
    };
    expect(await conflicts()).toEqual(["RESTORE_CONFLICT", `${name}, ${alias}`]);
    expect(await conflicts([[name, alias]])).toEqual(["RESTORE_CONFLICT", alias]);
    expect(await aliasesOf(cluster)).toEqual(before);
    // The index is gone, but its alias stands for another one by now.
    await cluster.request("DELETE", `/${name}`);
    await cluster.request("PUT", `/${cluster.prefix}-v2`, { aliases: { [alias]: {} } });
    expect(await conflicts()).toEqual(["RESTORE_CONFLICT", alias]);
  });

  test("under another name, neither the index nor its aliases get in the way of what is in use", async () => {
    await using cluster = await clusterAt(uri);
    const { name, alias, backup } = await small(cluster);
    const { prefix } = cluster;
    expect(await restored(cluster, backup, { renames: [[name, `${prefix}-copy`]] })).toMatchObject([{ equal: true }]);
    expect(await aliasesOf(cluster)).toEqual({ [name]: [alias], [`${prefix}-copy`]: [] });
    await cluster.request("DELETE", `/${prefix}-copy`);
    const renames = [[`${prefix}-*`, `${prefix}_other-*`]] as const;
    expect(await restored(cluster, backup, { renames })).toMatchObject([{ equal: true }]);
    expect(await aliasesOf(cluster)).toEqual({ [name]: [alias], [`${prefix}_other-v1`]: [`${prefix}_other-live`] });
  });

  test("with DROP, what is there is served until the restored index takes its place, in one step", async () => {
    await using cluster = await clusterAt(uri);
    const { name, alias, backup } = await small(cluster);
    const expected = await contents(cluster, name);
    await cluster.request("PUT", `/${name}/_doc/extra`, { number: 1000 });
    await using run = await prepared(cluster, backup, { policy: ConflictPolicy.DROP });
    await run.restore();
    expect((await contents(cluster, name)).size).toBe(31);
    expect((await contents(cluster, alias)).size).toBe(31);
    await run.compare();
    expect(reportOf(run)).toMatchObject([{ target: name, equal: true, writtenItems: 30n }]);
    expect(await contents(cluster, name)).toEqual(expected);
    expect(await contents(cluster, alias)).toEqual(expected);
    expect(Object.values(await aliasesOf(cluster))).toEqual([[alias, name].toSorted()]);
    // Once more: the name is an alias now.
    await cluster.request("PUT", `/${name}/_doc/extra`, { number: 1000 });
    expect(await restored(cluster, backup, { policy: ConflictPolicy.DROP })).toMatchObject([{ equal: true }]);
    expect(await contents(cluster, name)).toEqual(expected);
    expect(Object.values(await aliasesOf(cluster))).toEqual([[alias, name].toSorted()]);
  });

  test("with DROP, an alias that stands for another index by now is moved", async () => {
    await using cluster = await clusterAt(uri);
    const { name, alias, backup } = await small(cluster);
    await cluster.request("DELETE", `/${name}`);
    await cluster.request("PUT", `/${cluster.prefix}-v2`, { aliases: { [alias]: {} } });
    expect(await restored(cluster, backup, { policy: ConflictPolicy.DROP })).toMatchObject([{ equal: true }]);
    expect(await aliasesOf(cluster)).toEqual({ [name]: [alias], [`${cluster.prefix}-v2`]: [] });
  });

  test("with OVERWRITE, single documents are replaced and others stay; with SKIP, missing ones come back", async () => {
    await using cluster = await clusterAt(uri);
    const { name, alias, backup } = await small(cluster);
    const original = await contents(cluster, name);
    await cluster.request("PUT", `/${name}/_doc/extra`, { number: 1000 });
    await cluster.request("PUT", `/${name}/_doc/1`, { number: 999 });
    await cluster.request("DELETE", `/${name}/_doc/2`);
    const skip = await restored(cluster, backup, { policy: ConflictPolicy.SKIP });
    expect(skip).toMatchObject([{ equal: true, writtenItems: 1n, skippedItems: 29n, equalItems: 1n }]);
    let found = await contents(cluster, name);
    expect([found.size, found.get(`"1"`)?.endsWith(`{"number":999}`), found.has(`"2"`)]).toEqual([31, true, true]);
    // Through an alias of one index, too.
    await cluster.request("DELETE", `/${name}/_doc/2`);
    const renames = [[name, alias]] as const;
    const overwrite = await restored(cluster, backup, { policy: ConflictPolicy.OVERWRITE, renames });
    expect(overwrite).toMatchObject([{ equal: true, writtenItems: 30n, equalItems: 30n }]);
    found = await contents(cluster, name);
    expect(found.size).toBe(31);
    for (const [id, text] of original) expect(found.get(id)?.split(" ").at(-1)).toBe(text.split(" ").at(-1));
    expect(await aliasesOf(cluster)).toEqual({ [name]: [alias] });
  });

  test("what is not equal is not put in place, and what was there is untouched", async () => {
    await using cluster = await clusterAt(uri);
    const { name, alias, backup } = await small(cluster);
    await using run = await prepared(cluster, backup, { policy: ConflictPolicy.DROP });
    await run.restore();
    const [made = ""] = Object.keys(await aliasesOf(cluster)).filter((index) => index !== name);
    await cluster.request("PUT", `/${made}/_doc/7?refresh=true`, { number: 8 });
    await run.compare();
    const [report] = reportOf(run);
    expect(report).toMatchObject({ equal: false, remark: "30 documents are there, not all as in the backup" });
    expect(report?.equalItems).toBeLessThan(30n);
    await run[Symbol.asyncDispose]();
    expect(await aliasesOf(cluster)).toEqual({ [name]: [alias] });
  });

  test("documents that the server refuses are told by index and kind, and nothing stays behind", async () => {
    await using cluster = await clusterAt(uri);
    const { name, backup } = await small(cluster);
    const [unit] = backup.units;
    if (unit?.description.case !== "searchIndex") throw new Error("no index");
    const { value } = unit.description;
    value.definitionJson = value.definitionJson.replace(`"integer"`, `"geo_point"`);
    await using run = await prepared(cluster, backup, { renames: [[name, `${cluster.prefix}-copy`]] });
    const { reason, metadata } = await failureOf(() => run.restore());
    expect([reason, metadata["index"]]).toEqual(["RESTORE_REFUSED", `${cluster.prefix}-copy`]);
    expect(metadata["error_type"]).toMatch(/parsing_exception/);
    expect(reportOf(run)).toMatchObject([
      { equal: false, remark: "0 documents were loaded into an index that is removed again" },
    ]);
    await run[Symbol.asyncDispose]();
    expect(Object.keys(await aliasesOf(cluster))).toEqual([name]);
    value.definitionJson = value.definitionJson.replace(`"geo_point"`, `"no_such_type"`);
    await using other = await prepared(cluster, backup, { renames: [[name, `${cluster.prefix}-copy`]] });
    expect(await failureOf(() => other.restore())).toMatchObject({
      reason: "RESTORE_REFUSED",
      metadata: { index: name },
    });
  });

  test("templates of the server do not get into what is restored", async () => {
    await using cluster = await clusterAt(uri);
    const { name, alias, backup } = await small(cluster);
    await cluster.request("DELETE", `/${name}`);
    await cluster.request("PUT", `/_index_template/${cluster.prefix}-template`, {
      index_patterns: [`${cluster.prefix}*`],
      template: { aliases: { [`${cluster.prefix}-unwanted`]: {} }, settings: { refresh_interval: "55s" } },
    });
    expect(await restored(cluster, backup)).toMatchObject([{ equal: true }]);
    expect(await aliasesOf(cluster)).toEqual({ [name]: [alias] });
    await cluster.request("DELETE", `/${name}`);
    await cluster.request("PUT", `/_index_template/${cluster.prefix}-template`, {
      index_patterns: [`${cluster.prefix}*`],
      template: { mappings: { properties: { more: { type: "keyword" } } } },
    });
    expect(await restored(cluster, backup)).toMatchObject([
      { equal: false, remark: "It has other fields than in the backup" },
    ]);
  });

  test("a backup of the other product is restored where its mappings allow it", async () => {
    await using cluster = await clusterAt(uri);
    const { name, backup } = await small(cluster);
    const [unit] = backup.units;
    if (unit?.description.case !== "searchIndex") throw new Error("no index");
    const { value } = unit.description;
    const { product, freeForm } = await cluster.search.dialect(AbortSignal.timeout(150_000));
    value.product = product.name === "opensearch" ? "elasticsearch" : "opensearch";
    const foreign = freeForm === "flattened" ? { type: "flat_object" } : { type: "flattened", depth_limit: 3 };
    const settings =
      freeForm === "flattened" ? { replication: { type: "DOCUMENT" } } : { lifecycle: { name: "policy" } };
    value.definitionJson = JSON.stringify({
      aliases: {},
      mappings: { properties: { number: { type: "integer" }, type: { properties: { free: foreign } } } },
      settings: {
        index: {
          number_of_shards: "1",
          ...settings,
          routing: { allocation: { include: { _tier_preference: "data_content" } } },
        },
      },
    });
    const copy = `${cluster.prefix}-copy`;
    expect(await restored(cluster, backup, { renames: [[name, copy]] })).toMatchObject([{ equal: true }]);
    const mapping = JSON.stringify(await cluster.request("GET", `/${copy}/_mapping`));
    expect(mapping).toContain(`"free":{"type":"${freeForm}"}`);
  });
});

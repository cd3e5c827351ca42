import { expect, test } from "vitest";

import { onEveryServer } from "../../support/search-servers.ts";
import { backedUp, type Cluster, clusterAt, contents, restored } from "./support.ts";

/** Sources that come back otherwise from whoever parses them. */
const hostile = [
  `{"number":12345678901234567890123,"one":1.0,"exponent":1e400,"small":-0.0}`,
  `{  "blank" : [ 1 ,2,  3 ] , "order":1,"a":2  }`,
  `{"text":"\\u00e9\\ud83d\\ude00 \\"quoted\\" \\\\ \\/ { } [ ] , :","é":"😀"}`,
  `{"off":{"":"empty name","a":{"":{}}},"empty":[],"null":null,"true":true}`,
  `{"lines":\n [1,\r\n\t2]\n}`,
  `{"backslashes":"\\\\\\\\","end":"\\\\"}`,
  `{}`,
];

async function fill(cluster: Cluster, name: string): Promise<void> {
  const { search, request } = cluster;
  const { freeForm } = await search.dialect(AbortSignal.timeout(150_000));
  await request("PUT", `/${name}`, {
    settings: {
      number_of_shards: 2,
      number_of_replicas: 0,
      refresh_interval: "7s",
      max_result_window: 5000,
      analysis: { analyzer: { mine: { type: "custom", tokenizer: "standard", filter: ["lowercase"] } } },
    },
    mappings: {
      _meta: { note: "kept", number: 7 },
      dynamic: false,
      properties: {
        title: { type: "text", analyzer: "mine", fields: { raw: { type: "keyword", ignore_above: 200 } } },
        comments: { type: "nested", properties: { author: { type: "keyword" }, stars: { type: "integer" } } },
        when: { type: "date", format: "epoch_millis" },
        free: { type: freeForm },
        suggest: { type: "completion" },
        place: { type: "geo_point" },
        address: { type: "ip" },
        range: { type: "integer_range" },
        flag: { type: "boolean" },
        bytes: { type: "binary" },
        off: { type: "object", enabled: false },
        other: { type: "alias", path: "address" },
      },
    },
    aliases: {
      [`${name}-all`]: { is_write_index: true },
      [`${name}-flagged`]: { filter: { term: { flag: true } }, routing: "r1" },
    },
  });
  for (const [index, source] of hostile.entries()) await request("PUT", `/${name}/_doc/hostile%20${index}`, source);
  await request("PUT", `/${name}/_doc/routed?routing=r1`, {
    title: "A routed document",
    comments: [{ author: "ada", stars: 5 }, { author: "bob" }],
    free: { any: { form: ["a", "b"] } },
    flag: true,
    address: "10.0.0.1",
    range: { gte: 1, lt: 5 },
    place: { lat: 1, lon: 2 },
  });
  await request("PUT", `/${name}/_doc/external?version=${2n ** 62n}&version_type=external`, { version: "external" });
  for (let turn = 0; turn < 3; turn++) await request("PUT", `/${name}/_doc/written%20often`, { turn });
  await request("PUT", `/${name}/_doc/deleted`, {});
  await request("DELETE", `/${name}/_doc/deleted`);
  await request("PUT", `/${name}/_doc/${encodeURIComponent('é "/?#\\ +')}`, { id: "of all characters" });
}

onEveryServer((uri) => {
  test("an index comes back with its definition, and every document to the last byte", async () => {
    await using cluster = await clusterAt(uri);
    const { prefix, request } = cluster;
    const name = `${prefix}-one`;
    await fill(cluster, name);

    // Written last and not refreshed: it is there all the same.
    const backup = await backedUp(cluster, [`${prefix}-*`]);
    expect(backup.units.map((unit) => [unit.name, unit.recordCount])).toEqual([[name, BigInt(hostile.length + 4)]]);
    expect(backup.cut.searchSequenceNumbers?.[name]).toBeGreaterThanOrEqual(hostile.length + 4);
    const report = await restored(cluster, backup, { renames: [[`${prefix}-*`, `${prefix}copy-*`]] });

    const copy = `${prefix}copy-one`;
    expect(report).toMatchObject([
      { source: name, target: copy, equal: true, remark: "", equalItems: report[0]?.expectedItems },
    ]);
    expect(await contents(cluster, copy)).toEqual(await contents(cluster, name));
    const definitions = await Promise.all([name, copy].map((index) => request("GET", `/${index}`)));
    const [before, after] = definitions.map((answer) => JSON.stringify(Object.values(answer as object)[0]));
    const comparable = (text = ""): unknown => {
      const parsed = JSON.parse(text.replaceAll(prefix + "copy", prefix)) as {
        settings: { index: Record<string, unknown> };
      };
      for (const own of ["uuid", "creation_date", "provided_name"]) delete parsed.settings.index[own];
      return parsed;
    };
    expect(comparable(after)).toEqual(comparable(before));
  });
});

import { Long, ObjectId, serialize } from "bson";
import { expect, test } from "vitest";

import { reasonOf } from "../../src/errors.ts";
import { searchCopier } from "../../src/schema/search-copy.ts";
import { searchIndices } from "../../src/search/indices.ts";
import { searchedMessages } from "../../src/search/messages.ts";
import { openSearch } from "../../src/stores/search.ts";
import { bulk } from "../../src/stores/search/bulk.ts";
import { onEveryServer } from "../support/search-servers.ts";
import { refusingProxy } from "./refusing-proxy.ts";
import { searchPart } from "./support.ts";

const signal = new AbortController().signal;

onEveryServer((uri) => {
  test("every message gets an alias over a versioned index, also from two replicas at once", async () => {
    await using part = searchPart(uri);
    const indices = searchIndices(part);
    const other = searchIndices(part);
    for (const name of searchedMessages.keys()) {
      const [one, two] = await Promise.all([indices.ensure(name, signal), other.ensure(name, signal)]);
      expect(one).toMatchObject({ name, alias: `${part.prefix}${name}`, index: `${part.prefix}${name}-v1` });
      expect(two.uuid).toBe(one.uuid);
      expect(await indices.ensure(name, signal)).toEqual({ ...one, state: "present" });
    }
  });

  test("there are never two versions behind an alias, though another replica makes one between two looks", async () => {
    await using part = searchPart(uri);
    await using proxy = await refusingProxy(uri);
    await using search = openSearch({ uri: proxy.uri });
    const slow = searchIndices({ ...part, search });
    const [asked, made] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    proxy.refuses = async (_, path) => {
      if (!decodeURIComponent(path).includes("users-v*")) return undefined;
      asked.resolve();
      await made.promise;
      return undefined;
    };
    const waiting = slow.ensure("users", signal);
    await asked.promise;
    const { index, uuid } = await searchIndices(part).ensure("users", signal);
    made.resolve();
    expect(await waiting).toMatchObject({ index, uuid });
  });

  test("a server that has not read yet what it holds is not given another version", async () => {
    await using part = searchPart(uri);
    const before = await searchIndices(part).ensure("users", signal);
    await using proxy = await refusingProxy(uri);
    await using search = openSearch({ uri: proxy.uri });
    const indices = searchIndices({ ...part, search });
    // So it answers: it knows no name, and is not ready where that is no reason to fail.
    const body = { error: { type: "index_not_found_exception" } };
    const path = `/${part.prefix}users`;
    let isReading = true;
    proxy.refuses = (method, url) => {
      const { pathname, searchParams } = new URL(url, proxy.uri);
      if (method !== "GET" || pathname !== path || !isReading) return undefined;
      isReading = false;
      return { status: searchParams.get("ignore_unavailable") === "true" ? 503 : 404, body };
    };
    await indices.ensure("users", signal).catch(() => undefined);
    expect(isReading).toBe(false);
    expect(await indices.ensure("users", signal)).toEqual({ ...before, state: "present" });
  });

  test("the server takes copies with anything in a free-form object and in names, and refuses undeclared fields", async () => {
    await using part = searchPart(uri);
    const { index } = await searchIndices(part).ensure("sessions", signal);
    const copier = searchCopier(messageNamed("sessions"));
    let deep: object = { end: true };
    for (let level = 0; level < 28; level++) deep = { deep };
    const metadata = {
      "": 1,
      ".": 2,
      "a.": 3,
      "a.b": "x",
      a: { b: 4 },
      wide: "ü".repeat(8189),
      deep,
      n: null,
      l: [[1]],
    };
    const names = ["", " ", "!!!", "a\u0000b\u001e\u001f", "x".repeat(200), "\u{1f600}", `"\\`];
    const sent = names.map((session_name, at) =>
      copier.fromBson(
        serialize({
          _id: new ObjectId(),
          session_id: `s${at}`,
          session_name,
          metadata,
          total_size_bytes: Long.MAX_VALUE,
          revision: Long.fromNumber(1),
        }),
      ),
    );
    const items = sent.map(({ id, json }) => ({ action: `{"index":{"_id":"${id}"}}`, source: Buffer.from(json) }));
    for (const result of await bulk(part.search.client, index, items, { signal })) {
      expect(result).toMatchObject({ status: 201, type: "" });
    }
    const undeclared = part.search.client.index({ index, id: "x", document: { session_id: "x", secret: 1 } });
    await expect(undeclared).rejects.toThrow("strict_dynamic_mapping_exception");
  });

  test("fields that came later are added; only one of another kind waits for a rebuild", async () => {
    await using part = searchPart(uri);
    const { client } = part.search;
    const indices = searchIndices(part);
    const made = async (properties: object) => {
      await client.indices.delete({ index: `${part.prefix}users-v1` }, { ignore: [404] });
      const mappings = { _meta: { message: "lucid.repository.v1.User", digest: "old" }, dynamic: "strict", properties };
      await client.indices.create({
        index: `${part.prefix}users-v1`,
        mappings: mappings as object,
        aliases: { [`${part.prefix}users`]: {} },
      });
    };
    await made({ user_id: { type: "keyword", ignore_above: 8191 } });
    expect(await indices.ensure("users", signal)).toMatchObject({ state: "extended" });
    expect(await indices.ensure("users", signal)).toMatchObject({ state: "present" });
    const profile = { properties: { location: { type: "keyword" } } };
    await made({ user_id: { type: "keyword" }, created_at: { type: "long" }, profile });
    expect(await indices.ensure("users", signal)).toMatchObject({ state: "outdated", digest: "" });
    const added = { created_by: "ada", profile: { location: "here", display_name: "Ada" } };
    const document = { user_id: "ada", created_at: 1, ...added };
    await client.index({ index: `${part.prefix}users`, id: "ada", document, refresh: true });
    const query = { bool: { filter: [{ term: { created_by: "ada" } }, { match: { "profile.display_name": "ada" } }] } };
    expect((await client.search({ index: `${part.prefix}users`, query })).hits.hits).toHaveLength(1);
  });

  test("what the service has not made is left alone, and named", async () => {
    await using part = searchPart(uri);
    const { client } = part.search;
    const indices = searchIndices(part);
    const refusal = async (name: string) => {
      const error: unknown = await indices.ensure(name, signal).catch((caught: unknown) => caught);
      return reasonOf(error);
    };
    await client.indices.create({ index: `${part.prefix}users` });
    expect(await refusal("users")).toEqual({
      reason: "SEARCH_INDEX_OCCUPIED",
      metadata: { index: `${part.prefix}users`, occupied_by: `${part.prefix}users` },
    });
    await client.indices.create({ index: `${part.prefix}foreign`, aliases: { [`${part.prefix}blocks`]: {} } });
    expect((await refusal("blocks"))?.metadata).toMatchObject({ occupied_by: `${part.prefix}foreign` });
    expect((await refusal("nothing"))?.reason).toBe("SEARCH_INDEX_NOT_FOUND");
  });

  test("a next version is made beside the live one, also where an old one has lost its alias", async () => {
    await using part = searchPart(uri);
    const { client } = part.search;
    const indices = searchIndices(part);
    const { index, alias } = await indices.ensure("users", signal);
    expect(await indices.makeNext("users", signal)).toBe(`${alias}-v2`);
    // An operator may call an index almost so; it is not one of these, and backups hold it.
    expect([`${alias}-v2`, alias, `${alias}-vault`, `${alias}-v2-v1`].filter((name) => indices.has(name))).toEqual([
      `${alias}-v2`,
    ]);
    await client.indices.deleteAlias({ index, name: alias });
    expect(await indices.ensure("users", signal)).toMatchObject({ state: "made", index: `${alias}-v3` });
  });
});

function messageNamed(name: string) {
  const message = searchedMessages.get(name);
  if (message === undefined) throw new Error(`${name} is not searched`);
  return message;
}

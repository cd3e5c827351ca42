import { setTimeout as sleep } from "node:timers/promises";

import { Long } from "bson";
import { MongoClient } from "mongodb";
import { expect, test, vi } from "vitest";

import { messageOf, searchIndices } from "../../../src/search/indices.ts";
import { syncAccess } from "../../../src/search/sync/access.ts";
import { deadLetters } from "../../../src/search/sync/dead-letters.ts";
import { openSearch } from "../../../src/stores/search.ts";
import { openRouter } from "../../admin/database/router.ts";
import { storeAddresses, uniqueName } from "../../support/stores.ts";
import { refusingProxy } from "../refusing-proxy.ts";
import { change, newUser, syncBed } from "./support.ts";

const refusal = (key: string) => {
  const about = { source_id: key, document_id: key, revision: 1n };
  return { key, ...about, error_type: "mapper_parsing_exception", cause_type: "", field: "status" };
};

test("what another process has recorded is forgotten once its document has a copy", async () => {
  await using client = await MongoClient.connect(storeAddresses().mongodbUri);
  const db = client.db(uniqueName("letters"));
  try {
    const open = () => deadLetters(db, { alias: (name) => `test-${name}` });
    const [one, other, third] = [open(), open(), open()];
    // Each of them has seen that there are none.
    for (const each of [one, other, third]) await each.clear("users", ["a"]);
    await other.record("users", [refusal("a"), refusal("b")]);

    // One that takes the index over.
    one.lookAgain("users");
    await one.clear("users", ["a"]);
    expect(await one.count("users")).toBe(1);

    // One that is asked to try a document again.
    await third.find(["test-users/b"]);
    await third.clear("users", ["b"]);
    expect(await third.count("users")).toBe(0);
  } finally {
    await db.dropDatabase();
  }
});

test("what is recorded while it is looked for whether there are any is forgotten, too", async () => {
  const [asked, answered] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const database = uniqueName("letters");
  await using server = await openRouter(storeAddresses().mongodbUri, async ({ find }, name) => {
    if (name !== "find") return undefined;
    asked.resolve();
    await answered.promise;
    return { ok: 1, cursor: { id: Long.ZERO, ns: `${database}.${String(find)}`, firstBatch: [] } };
  });
  await using client = await MongoClient.connect(server.uri);
  try {
    const letters = deadLetters(client.db(database), { alias: (name) => `test-${name}` });
    const clearing = letters.clear("users", ["b"]);
    await asked.promise;
    await letters.record("users", [refusal("a")]);
    answered.resolve();
    await clearing;
    await letters.clear("users", ["a"]);
    expect(await letters.count("users")).toBe(0);
  } finally {
    await client.db(database).dropDatabase();
  }
});

test.for([
  { is: "one", was: "a good", first: { status: "BANNED" }, second: { created_at: "no date" }, letters: 1 },
  { is: "none", was: "a bad", first: { created_at: "no date" }, second: { created_at: new Date() }, letters: 0 },
])(
  "a document is $is where its last state is refused or not, though the server answers to $was state before it last",
  async ({ first, second, letters }) => {
    const { searchUri } = storeAddresses();
    await using bed = await syncBed(searchUri);
    await using proxy = await refusingProxy(searchUri);
    await using search = openSearch({ uri: proxy.uri });
    const { domain, system, prefix } = bed;
    await domain.collection("users").insertOne(newUser({ user_id: "u1" }));
    const access = syncAccess({ search, indices: searchIndices({ search, prefix }), domain, system });
    bed.start({ access, messages: [messageOf("users")] });
    await bed.settled("users");
    const [sent, free, overtaken] = [0, 1, 2].map(() => Promise.withResolvers<void>()) as [Held, Held, Held]; // three
    let bulks = 0;
    proxy.refuses = async (_, path) => {
      if (!path.includes("/_bulk")) return undefined;
      bulks += 1;
      if (bulks > 1) return undefined;
      sent.resolve();
      await free.promise;
      return undefined;
    };
    proxy.answered = (path) => path.includes("/_bulk") && overtaken.resolve();
    await change(domain, "users", { user_id: "u1" }, first);
    await sent.promise;
    await change(domain, "users", { user_id: "u1" }, second);
    await overtaken.promise;
    // What comes of that answer at once has come.
    await sleep(200);
    free.resolve();
    const status = () => access.status("users", AbortSignal.timeout(150_000));
    await vi.waitFor(async () => expect(await status()).toMatchObject({ lagDocuments: 0 }), { timeout: 150_000 });
    expect((await status()).deadLetters).toBe(letters);
  },
);

type Held = PromiseWithResolvers<void>;

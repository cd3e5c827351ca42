import { Long } from "bson";
import { test } from "vitest";

import { messageOf } from "../../../src/search/indices.ts";
import { concurrentlyOnEveryServer } from "../../support/search-servers.ts";
import { change, newUser, syncBed, type SyncBed } from "./support.ts";

const message = messageOf("users");

/** A bed whose index is kept, with users at revision 9, from `u0` on. */
async function keptUsers(uri: string, count = 2): Promise<SyncBed> {
  await using stack = new AsyncDisposableStack();
  const bed = stack.use(await syncBed(uri));
  const nine = Long.fromNumber(9);
  const users = Array.from({ length: count }, (_, at) => newUser({ user_id: `u${at}`, revision: nine }));
  await bed.domain.collection("users").insertMany(users);
  bed.start({ messages: [message] });
  await bed.settled("users");
  stack.move();
  return bed;
}

concurrentlyOnEveryServer((uri) => {
  test("a copy that was edited by hand is replaced with the next change of its document, and holds up no other", async () => {
    await using bed = await keptUsers(uri);
    const { client } = bed.search;
    const index = bed.indices.alias("users");
    // Each of these raises the version by one, and leaves the revision.
    for (const status of ["A", "B", "C"]) await client.update({ index, id: "u0", doc: { status } });
    await change(bed.domain, "users", { user_id: "u0" }, { status: "BANNED" });
    await change(bed.domain, "users", { user_id: "u1" }, { status: "BANNED" });
    await bed.settled("users");
  });

  test("a copy of a version that is far above all others goes with its document", async () => {
    await using bed = await keptUsers(uri);
    const index = bed.indices.alias("users");
    const { _source } = await bed.search.client.get<object>({ index, id: "u0" });
    const document = _source ?? {};
    await bed.search.client.index({ index, id: "u0", version: 2 ** 50, version_type: "external", document });
    await bed.domain.collection("users").deleteOne({ user_id: "u0" });
    await change(bed.domain, "users", { user_id: "u1" }, { status: "BANNED" });
    await bed.settled("users");
  });
});

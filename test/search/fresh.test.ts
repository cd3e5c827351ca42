import { setTimeout as pause } from "node:timers/promises";

import { expect, test } from "vitest";

import { UserSchema } from "../../gen/lucid/repository/v1/user_pb.ts";
import { UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { newUser } from "../repository/support.ts";
import { onEveryServer } from "../support/search-servers.ts";
import { storeAddresses } from "../support/stores.ts";
import { refusingProxy } from "./refusing-proxy.ts";
import { searchApp } from "./search-app.ts";

onEveryServer((uri) => {
  test("who has written is shown what was written, while the indices are kept equal to the collections", async () => {
    await using there = await searchApp(uri, { LUCID_SEARCH_SYNC: "on" });
    const users = there.app.client(UserService);
    const seenBy = async (text: string, revision: bigint, id: string) => {
      const minRevision = { id, revision };
      const options = { timeoutMs: 120_000 };
      const { hits } = await there.client.searchUsers({ query: { text }, minRevision }, options);
      const { count } = await there.overHttp.count(
        { indices: ["users"], query: { text }, minRevisions: [minRevision] },
        options,
      );
      expect(count).toBe(BigInt(hits.length));
      return hits.map(({ user, indexedRevision }) => [user?.profile?.displayName, user?.revision, indexedRevision]);
    };

    const { userId } = await newUser(users, { profile: { displayName: "Ada Byron" } });
    expect(await seenBy("byron", 1n, userId)).toEqual([["Ada Byron", 1n, 1n]]);
    const changed = await users.updateUser({
      user: { userId, profile: { displayName: "Ada Lovelace" } },
      updateMask: { paths: ["profile.display_name"] },
    });
    expect(changed.user?.revision).toBe(2n);
    expect(await seenBy("lovelace", 2n, userId)).toEqual([["Ada Lovelace", 2n, 2n]]);
    expect(await seenBy("byron", 2n, userId)).toEqual([]);
    const deleted = await users.deleteUser({ userId });
    expect(await seenBy("lovelace", deleted.user?.revision ?? 3n, userId)).toEqual([]);
    expect((await there.client.suggest({ index: "users", text: "ada" })).suggestions).toEqual([]);
    const undeleted = await users.undeleteUser({ userId });
    expect(await seenBy("lovelace", undeleted.user?.revision ?? 4n, userId)).toEqual([["Ada Lovelace", 4n, 4n]]);
  });
});

test("who has the time waits for what was written though the search server stands still for some seconds", async () => {
  await using server = await refusingProxy(storeAddresses().searchUri);
  await using there = await searchApp(server.uri);
  await there.put(UserSchema, { userId: "ada", email: "a@example.com", tronAddress: "T", revision: 2n });
  const answered = Promise.withResolvers<void>();
  let looks = 0;
  server.refuses = async (_, path) => {
    // Such a look seems to take more time than a search would have left that lasts for half a minute.
    if (path.includes("/_search") && ++looks === 1) await pause(11_000);
    return undefined;
  };
  server.answered = (path) => {
    if (path.includes("/_search")) answered.resolve();
  };
  const found = there.client.searchUsers({ minRevision: { id: "ada", revision: 2n } }, { timeoutMs: 150_000 });
  await Promise.race([answered.promise, found]);
  await there.copy(UserSchema);
  expect((await found).hits).toMatchObject([{ id: "ada", indexedRevision: 2n }]);
  expect(looks).toBeGreaterThan(1);
});

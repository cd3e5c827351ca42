import { expect, test } from "vitest";

import { UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { newUser } from "../repository/support.ts";
import { onEveryServer } from "../support/search-servers.ts";
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

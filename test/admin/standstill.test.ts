import { expect, test } from "vitest";

import { UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { newUser } from "../repository/support.ts";
import { isCheckpoint, watching } from "../repository/watch/support.ts";
import { patient, testApp } from "../support/app.ts";
import { storeAddresses } from "../support/stores.ts";
import { openRouter } from "./database/router.ts";

/** How long the server stands still, in milliseconds. */
const standstillMs = 10_000;

test("a server that stands still for some seconds fails no call that has the time", async () => {
  const refused: string[] = [];
  // As a server that waits within a statement: it breaks off what may not take so long, and does the others then.
  await using server = await openRouter(storeAddresses().mongodbUri, ({ maxTimeMS }, name) => {
    if (typeof maxTimeMS !== "number" || maxTimeMS >= standstillMs || name === "getMore") return undefined;
    refused.push(name);
    return { ok: 0, code: 50, codeName: "MaxTimeMSExpired", errmsg: "operation exceeded time limit" };
  });
  await using app = await testApp({ LUCID_MONGODB_URI: patient(server.uri) });
  const users = app.client(UserService);
  await newUser(users);
  await newUser(users);
  const { nextPageToken } = await users.listUsers({ pageSize: 1 });
  expect((await users.listUsers({ pageSize: 1, pageToken: nextPageToken })).users).toHaveLength(1);
  using watch = watching((options) => users.watchUsers({}, options));
  await watch.until(isCheckpoint);
  expect(refused).toEqual([]);
});

import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { pino } from "pino";
import { expect, test } from "vitest";

import { UserService } from "../gen/lucid/repository/v1/user_service_pb.ts";
import { start } from "../src/app.ts";
import { reasonOf } from "../src/errors.ts";
import { cuttable } from "./jobs/proxy.ts";
import { newUser } from "./repository/support.ts";
import { testApp } from "./support/app.ts";

test("a stop waits for a handler whose caller it has sent away, and logs its change", async () => {
  // Its databases, and nothing that would move the record in the place of the other.
  await using keeper = await testApp({ LUCID_AUDIT_TAKEOVER_MS: "3600000" });
  await newUser(keeper.client(UserService)); // the collections are there
  const { database, systemDatabase, uri } = keeper.config.mongodb;
  await using wire = await cuttable(uri);
  const logged: unknown[] = [];
  const log = pino({ level: "warn" }, { write: (line: string) => logged.push(JSON.parse(line)) });
  const app = await start({ ...keeper.config, mongodb: { ...keeper.config.mongodb, uri: wire.uri } }, log);
  const users = createClient(UserService, createGrpcTransport({ baseUrl: `http://127.0.0.1:${app.grpc.port}` }));

  const { userId } = await newUser(users);
  const answer = wire.holdAnswerTo("late@example.com");
  const call = users.updateUser({
    user: { userId, email: "late@example.com" },
    updateMask: { paths: ["email"] },
  });
  const refused = call.then(
    () => undefined,
    (error: unknown) => reasonOf(error)?.reason,
  );
  const stored = keeper.mongodb.db(database).collection("users");
  await expect.poll(() => stored.findOne({ user_id: userId })).toMatchObject({ email: "late@example.com" });
  await app.drain(0);
  expect(await refused).toBe("DRAINING");

  const stopped = app[Symbol.asyncDispose]();
  answer.release();
  await stopped;
  const records = keeper.mongodb.db(systemDatabase).collection("audit_logs");
  const rpc = `${UserService.typeName}/${UserService.method.updateUser.name}`;
  expect(await records.findOne({ rpc })).not.toBeNull();
  expect(await stored.findOne({ user_id: userId })).not.toHaveProperty("_audit");
  expect(logged).toEqual([]);
});

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Redis } from "ioredis";
import { MongoClient } from "mongodb";
import { pino } from "pino";
import { expect, test } from "vitest";

import { BackupService, JobState } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { SearchService } from "../../gen/lucid/search/v1/search_service_pb.ts";
import { startStores, storeEnvironment } from "../../local/stores.ts";
import { waitUntil } from "../../local/wait.ts";
import { start } from "../../src/app.ts";
import { readConfig } from "../../src/config.ts";
import { latencyRecorder } from "../../src/stores/latency.ts";
import { openSearch } from "../../src/stores/search.ts";
import { userInit } from "../repository/support.ts";
import { eventsOf } from "./support.ts";

/** Three new and empty servers, clients of them, and a service on them that uses the repository. */
async function freshService(repository: Readonly<Record<string, string>>) {
  await using stack = new AsyncDisposableStack();
  const stores = stack.use(await startStores());
  const config = readConfig({
    ...storeEnvironment(stores),
    ...repository,
    LUCID_GRPC_PORT: "0",
    LUCID_HTTP_PORT: "0",
  });
  const mongodb = await MongoClient.connect(stores.mongodbUri);
  stack.defer(() => mongodb.close());
  const redis = new Redis(stores.redisUri);
  stack.defer(() => redis.disconnect());
  const search = stack.use(openSearch({ uri: stores.searchUri }, { latency: latencyRecorder() })).client;
  const app = stack.use(await start(config, pino({ level: "silent" })));
  const transport = createGrpcTransport({ baseUrl: `http://127.0.0.1:${app.grpc.port}` });
  const backups = createClient(BackupService, transport);
  const users = createClient(UserService, transport);
  const searches = createClient(SearchService, transport);
  const running = stack.move();
  return { mongodb, redis, search, backups, users, searches, [Symbol.asyncDispose]: () => running.disposeAsync() };
}

test("after the loss of all three stores a fresh service lists and restores every backup", async () => {
  const dir = await mkdtemp(join(tmpdir(), "lucid-loss-"));
  const keyFile = join(dir, "key");
  await writeFile(keyFile, "a key that is long enough for the tests");
  const repository = { LUCID_BACKUP_DIR: join(dir, "repository"), LUCID_BACKUP_KEY_FILE: keyFile };
  const documents = Array.from({ length: 500 }, (_, number) => ({
    _id: number as never,
    text: `document ${number}`,
  }));
  let backupId = "";
  {
    await using before = await freshService(repository);
    await before.mongodb.db("shop").collection("orders").insertMany(documents);
    await before.redis.hset("lucid:session:1", { user_id: "ada", status: "ACTIVE" });
    await before.search.index({ index: "orders-1", id: "1", document: { number: 1 }, refresh: true });
    await before.search.indices.putAlias({ index: "orders-1", name: "orders" });
    await before.users.createUser({ user: userInit({ username: "ada" }) });
    backupId = (await before.backups.createBackup({})).backup?.backupId ?? "";
    const events = await eventsOf(before.backups.watchBackup({ backupId }));
    expect(events.at(-1)).toMatchObject({ state: JobState.SUCCEEDED });
  }
  {
    await using after = await freshService(repository);
    const { backups } = await after.backups.listBackups({});
    expect(backups).toMatchObject([{ backupId, state: JobState.SUCCEEDED }]);
    const { restore } = await after.backups.createRestore({ backupId });
    const restoreId = restore?.restoreId ?? "";
    const events = await eventsOf(after.backups.watchRestore({ restoreId }));
    const { error, report } = (await after.backups.getRestore({ restoreId })).restore ?? {};
    expect(events.at(-1), error?.message).toMatchObject({ state: JobState.SUCCEEDED });
    expect(report?.filter(({ equal }) => !equal)).toEqual([]);
    const orders = after.mongodb.db("shop").collection("orders");
    expect(await orders.find().sort({ _id: 1 }).toArray()).toEqual(documents);
    expect(await after.redis.hgetall("lucid:session:1")).toEqual({ user_id: "ada", status: "ACTIVE" });
    await after.search.indices.refresh({ index: "orders" });
    expect((await after.search.search({ index: "orders" })).hits.hits).toMatchObject([{ _id: "1" }]);
    // What the service keeps in search by itself comes from the restored collections.
    const found = async () => (await after.searches.searchUsers({})).hits.map(({ user }) => user?.username);
    expect(await waitUntil(async () => (await found()).length > 0, { withinMs: 60_000 })).toBe(true);
    expect(await found()).toEqual(["ada"]);
  }
  await rm(dir, { recursive: true, force: true });
});

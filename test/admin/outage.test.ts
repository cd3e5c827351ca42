import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test, vi } from "vitest";

import { RetryInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { BackupService } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import {
  HealthStatus,
  MonitoringService,
  type WatchHealthResponse,
} from "../../gen/lucid/admin/v1/monitoring_service_pb.ts";
import { UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { startMongodb } from "../../local/mongodb.ts";
import { startRedis } from "../../local/redis.ts";
import { startSearch } from "../../local/search.ts";
import { reasonOf } from "../../src/errors.ts";
import { cuttable } from "../jobs/proxy.ts";
import { newUser } from "../repository/support.ts";
import { testApp } from "../support/app.ts";
import { storeAddresses } from "../support/stores.ts";

/** Each store of its own, so that it can be cut off. */
const outages = [
  { name: "MongoDB", store: Store.MONGODB, start: startMongodb, setting: "LUCID_MONGODB_URI" },
  { name: "Redis", store: Store.REDIS, start: startRedis, setting: "LUCID_REDIS_URI" },
  { name: "search", store: Store.SEARCH, start: startSearch, setting: "LUCID_SEARCH_URI" },
] as const;

/** Two seconds, and what a busy machine adds; the drivers by themselves would wait for half a minute. */
const soonMs = 28_000;

/** What is asked again until it is so: a store that answers late is taken for one that is away. */
const soon = { timeout: 60_000, interval: 500 };

/** Reads events until one satisfies `is`. */
async function untilEvent(
  watch: AsyncIterator<WatchHealthResponse>,
  is: (event: WatchHealthResponse) => boolean,
): Promise<WatchHealthResponse> {
  for (;;) {
    const { done, value } = await watch.next();
    if (done === true) throw new Error("The watch ended");
    if (is(value)) return value;
  }
}

test.concurrent.for(outages)("$name goes away and comes back while everything else serves", async (outage) => {
  await using server = await outage.start();
  await using app = await testApp({ [outage.setting]: server.uri });
  const monitoring = app.client(MonitoringService);
  const backups = app.client(BackupService);
  const unknown = { backupId: "00000000-0000-7000-8000-000000000000" };
  const statusOf = (event: WatchHealthResponse) => event.stores.find(({ store }) => store === outage.store)?.status;
  const watch = monitoring.watchHealth({ heartbeatInterval: { seconds: 300n } })[Symbol.asyncIterator]();
  await untilEvent(watch, (event) => statusOf(event) === HealthStatus.HEALTHY);
  // The repository is opened with its first use, which takes its time and no store.
  await backups.listBackups({});

  await server.kill();
  const cut = await untilEvent(watch, (event) => statusOf(event) === HealthStatus.UNHEALTHY);
  expect(cut.status).toBe(outage.store === Store.MONGODB ? HealthStatus.UNHEALTHY : HealthStatus.DEGRADED);

  const beganMs = performance.now();
  const { health } = await monitoring.getStoreHealth({ store: outage.store });
  expect(health).toMatchObject({ status: HealthStatus.UNHEALTHY, version: "" });
  expect(health?.problem).toMatch(/^\S.*\S$/);
  expect(health?.problem).not.toMatch(/127\.0|localhost|:\d{4}|\.$/);
  expect(performance.now() - beganMs).toBeLessThan(soonMs);
  await vi.waitFor(async () => {
    const others = (await monitoring.getHealth({})).stores.filter(({ store }) => store !== outage.store);
    expect(others.map(({ status }) => status)).not.toContain(HealthStatus.UNHEALTHY);
  }, soon);
  await vi.waitFor(async () => {
    for (const { store, error, stats } of (await monitoring.getStats({})).stores) {
      expect(stats.case === undefined).toBe(store === outage.store);
      expect(error === "").toBe(store !== outage.store);
    }
  }, soon);

  if (outage.store === Store.MONGODB) {
    const calledMs = performance.now();
    const [call] = await Promise.allSettled([backups.getBackup(unknown)]);
    expect(performance.now() - calledMs).toBeLessThan(soonMs);
    const error = ConnectError.from(call.status === "rejected" ? call.reason : "did not fail");
    expect(error.code).toBe(Code.Unavailable);
    expect(reasonOf(error)).toMatchObject({ reason: "STORE_UNAVAILABLE", metadata: { store: "mongodb" } });
    expect(error.findDetails(RetryInfoSchema)).toMatchObject([{ retryDelay: { seconds: 1n } }]);
  }

  await server.start();
  await untilEvent(watch, (event) => statusOf(event) === HealthStatus.HEALTHY);
  await vi.waitFor(async () => {
    expect((await monitoring.getStats({ stores: [outage.store] })).stores).toMatchObject([{ error: "" }]);
  }, soon);
  if (outage.store === Store.MONGODB) {
    const isServed = () => expect(backups.getBackup(unknown)).rejects.toMatchObject({ code: Code.NotFound });
    await vi.waitFor(isServed, soon);
  }
});

test.concurrent("the service starts while all three stores are away, and says so", async () => {
  await using app = await testApp({
    LUCID_MONGODB_URI: "mongodb://127.0.0.1:1/?directConnection=true",
    LUCID_REDIS_URI: "redis://127.0.0.1:1",
    LUCID_SEARCH_URI: "http://127.0.0.1:1",
  });
  const monitoring = app.client(MonitoringService);
  const { status, stores } = await monitoring.getHealth({});
  expect(status).toBe(HealthStatus.UNHEALTHY);
  expect(stores.map((store) => store.status)).toEqual([1, 2, 3].map(() => HealthStatus.UNHEALTHY));
  const first = await monitoring.watchHealth({})[Symbol.asyncIterator]().next();
  expect(first.value).toMatchObject({ status: HealthStatus.UNHEALTHY, heartbeat: false });
});

test("a service that starts before its stores serves once they are there", { timeout: 240_000 }, async () => {
  await using stack = new AsyncDisposableStack();
  const { mongodbUri, redisUri, searchUri } = storeAddresses();
  const [mongodb, redis, search] = [await cuttable(mongodbUri), await cuttable(redisUri), await cuttable(searchUri)];
  const wires = [mongodb, redis, search].map((wire) => stack.use(wire));
  for (const wire of wires) wire.cut();
  const app = stack.use(
    await testApp({ LUCID_MONGODB_URI: mongodb.uri, LUCID_REDIS_URI: redis.uri, LUCID_SEARCH_URI: search.uri }),
  );
  const users = app.client(UserService);
  const watch = app.client(MonitoringService).watchHealth({})[Symbol.asyncIterator]();
  const isAway = ({ status }: { readonly status: HealthStatus }) => status === HealthStatus.UNHEALTHY;
  await untilEvent(watch, ({ stores }) => stores.every(isAway));
  // Whatever asks for a store first does not spoil its connection for the others.
  for (let call = 0; call < 2; call++) {
    await expect(users.getUser({ userId: "nobody" })).rejects.toMatchObject({ code: Code.Unavailable });
  }
  for (const wire of wires) wire.mend();
  await untilEvent(watch, ({ stores }) => !stores.some(isAway));
  const { userId } = await vi.waitFor(() => newUser(users), soon);
  expect((await users.getUser({ userId })).user?.userId).toBe(userId);
});

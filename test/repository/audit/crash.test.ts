import { randomUUID } from "node:crypto";

import { createClient } from "@connectrpc/connect";
import { type Db, type Document, MongoClient } from "mongodb";
import { expect, test } from "vitest";

import { startService } from "../../../bench/support/service-process.ts";
import { AuditLogService } from "../../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import { AuditEffect } from "../../../gen/lucid/repository/v1/audit_record_pb.ts";
import { UserService } from "../../../gen/lucid/repository/v1/user_service_pb.ts";
import { reasonOf } from "../../../src/errors.ts";
import { auditIntents } from "../../../src/repository/audit/intents.ts";
import { auditLog } from "../../../src/repository/audit/log.ts";
import { type AuditRelay, auditRelay } from "../../../src/repository/audit/relay.ts";
import { auditSweeper } from "../../../src/repository/audit/sweeper.ts";
import { translateStoreError } from "../../../src/stores/errors.ts";
import { patient, testApp } from "../../support/app.ts";
import { storeAddresses, uniqueName } from "../../support/stores.ts";
import { newUser } from "../support.ts";

const longest = { timeout: 150_000, interval: 100 };

const ofLateStores = new Set(["DEADLINE_EXCEEDED", "STORE_UNAVAILABLE"]);

/** Nothing is to be warned of, but of a store that answers late: that is tried again. */
const logger = {
  warn({ err, ...facts }: { readonly err?: unknown }, message: string) {
    if (ofLateStores.has(reasonOf(translateStoreError(err))?.reason ?? "")) return;
    expect.unreachable(`${message} ${String(err)} ${JSON.stringify(facts)}`);
  },
};

test("a replica that is killed right after a change leaves its record in the document, and another one logs it once", async () => {
  await using app = await testApp({ LUCID_AUDIT_TAKEOVER_MS: "3600000" });
  const { mongodb, search } = app.config;
  const { database, systemDatabase } = mongodb;
  const stores = storeAddresses();
  const environment = {
    LUCID_MONGODB_URI: patient(stores.mongodbUri),
    LUCID_REDIS_URI: stores.redisUri,
    LUCID_SEARCH_URI: stores.searchUri,
    LUCID_SEARCH_PREFIX: search.prefix,
    LUCID_MONGODB_DATABASE: database,
    LUCID_MONGODB_SYSTEM_DATABASE: systemDatabase,
    LUCID_AUDIT_TAKEOVER_MS: "3600000",
    LUCID_LOG_LEVEL: "info",
  };
  const users = app.mongodb.db(database).collection("users");
  const logged = app.mongodb.db(systemDatabase).collection("audit_logs");
  const { userId } = await newUser(app.client(UserService));

  // The relay waits some milliseconds. A busy machine may still let it be faster than the signal; then it is tried again.
  let carried: Document[] = [];
  for (let attempt = 0; carried.length === 0 && attempt < 10; attempt++) {
    await using replica = await startService(environment);
    await createClient(UserService, replica.transport).incrementSessionCount({ userId });
    process.kill(replica.pid ?? Number.NaN, "SIGKILL");
    const found = await users.findOne({ user_id: userId });
    carried = (found?.["_audit"] ?? []) as Document[];
  }
  expect(carried).toHaveLength(1);
  const auditId = String(carried[0]?.["audit_id"]);
  expect(await logged.countDocuments({ audit_id: auditId })).toBe(0);

  // Several replicas find it at once.
  const sweeping = { ...environment, LUCID_BACKUP_DIR: "", LUCID_AUDIT_TAKEOVER_MS: "100" };
  await using one = await testApp(sweeping);
  await using other = await testApp(sweeping);
  await expect.poll(async () => (await users.findOne({ user_id: userId }))?.["_audit"], longest).toBeUndefined();
  for (const each of [one, other]) {
    const found = await each.client(AuditLogService).getAuditRecord({ auditId });
    expect(found.record).toMatchObject({
      rpc: "lucid.repository.v1.UserService/IncrementSessionCount",
      resource: { type: "User", name: userId },
      effect: AuditEffect.CHANGED,
      outcome: "OK",
    });
  }
  expect(await logged.countDocuments({ audit_id: auditId })).toBe(1);
  const steps = await Array.fromAsync(one.client(AuditLogService).verifyAuditLog({}));
  expect(steps.at(-1)?.result).toMatchObject({ whole: true });
});

/** A log and a collection whose documents carry records, with nothing that moves these but what a test starts. */
async function rig() {
  const stack = new AsyncDisposableStack();
  const client = stack.adopt(await MongoClient.connect(storeAddresses().mongodbUri), (each) => each.close());
  const db: Db = client.db(uniqueName("audit"), { useBigInt64: true });
  stack.defer(async () => void (await db.dropDatabase()));
  const things = db.collection("things");
  const log = stack.use(auditLog(db, { carriers: ["things"], tell: () => expect.unreachable(), waitMs: 200_000 }));
  const relay = stack.use(auditRelay({ log, collection: () => things, logger }));
  const sweep = async (options: Partial<Parameters<typeof auditSweeper>[0]> = {}): Promise<void> => {
    let rounds = 0;
    const sweeper = auditSweeper({
      log,
      system: db,
      carriers: [things],
      settle: async () => void rounds++,
      isHeldUp: async () => false,
      takeoverMs: 1,
      logger,
      ...options,
    });
    sweeper.start();
    await expect.poll(() => rounds, longest).toBeGreaterThan(0);
    await sweeper[Symbol.asyncDispose]();
  };
  const logged = () => log.records.find({}, { sort: { sequence: 1 }, projection: { _id: 0 } }).toArray();
  const running = stack.move();
  return { db, things, log, relay, sweep, logged, [Symbol.asyncDispose]: () => running.disposeAsync() };
}

/** A record as a write carries it. Its id is that of a time long ago. */
function record(rpc = "test.v1.TestService/Change") {
  return {
    audit_id: `01000000-0000-7000-8000-${randomUUID().slice(24)}`,
    timestamp: new Date(),
    actor: { id: "anonymous" },
    rpc,
    action: "change",
    resource: { type: "Thing", name: randomUUID() },
    effect: "CHANGED" as const,
    outcome: "OK",
  };
}

/** Tells the relay of a call whose only write ended, for all that the call knows, in the dark. */
function endInTheDark(relay: AuditRelay, key: Document, carried: Document) {
  const refusal = { ...carried, audit_id: randomUUID(), effect: "UNKNOWN", outcome: "DEADLINE_EXCEEDED" };
  relay.ended({
    attempted: [{ collection: "things", key, record: carried }],
    outcome: "DEADLINE_EXCEEDED",
    refusal,
  });
  return refusal;
}

test("after a write whose outcome is not known the document tells whether it changed something", async () => {
  await using service = await rig();
  const { things, relay, logged } = service;
  const [arrived, lost] = [record(), record()];
  await things.insertMany([
    { name: "arrived", revision: 7, _audit: [arrived] },
    { name: "lost", revision: 7 },
  ]);
  endInTheDark(relay, { name: "arrived" }, arrived);
  const refusal = endInTheDark(relay, { name: "lost" }, lost);
  await relay.settled();
  expect(await logged()).toMatchObject([{ ...arrived, outcome: "DEADLINE_EXCEEDED" }, refusal]);
  expect(await things.find({}, { projection: { _id: 0 } }).toArray()).toEqual([
    { name: "arrived", revision: 7 },
    { name: "lost", revision: 7 },
  ]);

  // The write was only late.
  await things.updateOne({ name: "lost" }, { $set: { _audit: [lost] } });
  await service.sweep();
  expect((await logged()).at(-1)).toMatchObject(lost);
  expect(await things.countDocuments({ _audit: { $exists: true } })).toBe(0);
});

test("a record is logged once, however often and from wherever it comes", async () => {
  await using service = await rig();
  const { things, log, logged, sweep } = service;
  const many = Array.from({ length: 500 }, () => record());
  await things.insertMany(many.map((each, number) => ({ number, _audit: [each] })));
  // Relays and sweepers of several replicas at once, each with some of the others' records.
  const others = Array.from({ length: 4 }, () =>
    auditLog(service.db, { carriers: ["things"], tell: () => expect.unreachable(), waitMs: 200_000 }),
  );
  await Promise.all([
    ...others.map((each, index) => each.append(many.slice(index * 100, index * 100 + 200))),
    log.append(many.slice(0, 50)),
    sweep(),
    sweep(),
  ]);
  for (const each of others) await each[Symbol.asyncDispose]();
  await expect.poll(() => things.countDocuments({ _audit: { $exists: true } }), longest).toBe(0);
  // A restore brings documents back as they were in the middle of a call.
  await things.updateOne({ number: 0 }, { $set: { _audit: [many[0]] } });
  await sweep();
  const found = await logged();
  expect(found.map(({ sequence }) => sequence as bigint)).toEqual(many.map((_, index) => BigInt(index + 1)));
  expect(new Set(found.map(({ audit_id }) => String(audit_id)))).toEqual(new Set(many.map((each) => each.audit_id)));
  expect(await things.countDocuments({ _audit: { $exists: true } })).toBe(0);
});

test("appends that come at once in one process all succeed", async () => {
  await using service = await rig();
  const many = Array.from({ length: 20 }, () => record());
  await Promise.all(many.map((each) => service.log.append([each])));
  const found = await service.logged();
  expect(found.map(({ sequence }) => sequence as bigint)).toEqual(many.map((_, index) => BigInt(index + 1)));
});

test("while a restore compares documents, the sweeper leaves them as they are", async () => {
  await using service = await rig();
  await service.things.insertOne({ number: 1, _audit: [record()] });
  const asked = Promise.withResolvers<void>();
  const isHeldUp = async () => {
    asked.resolve();
    return true;
  };
  const sweeper = auditSweeper({
    log: service.log,
    system: service.db,
    carriers: [service.things],
    settle: async () => expect.unreachable(),
    isHeldUp,
    takeoverMs: 1,
    logger,
  });
  sweeper.start();
  await asked.promise;
  await sweeper[Symbol.asyncDispose]();
  expect(await service.things.countDocuments({ _audit: { $exists: true } })).toBe(1);
});

test("a deletion that its process did not live to tell of is logged where it happened, and only there", async () => {
  await using service = await rig();
  const rpc = "lucid.admin.v1.BackupService/DeleteBackup";
  const gone = new Set(["gone", "gone twice"]);
  const intents = auditIntents(service.db, {
    log: service.log,
    outcomes: { [rpc]: async (name) => gone.has(name) },
  });
  const intended = (name: string) => ({ ...record(rpc), resource: { type: "Backup", name } });
  const twice = intended("gone twice");
  await service.log.append([twice]);
  const stored = [intended("gone"), intended("gone twice"), intended("there")];
  const waiting: Document[] = stored.map((each, number) => ({ _id: `01000000-${number}`, intended: each }));
  await intents.collection.insertMany(waiting);
  const sweep = () => service.sweep({ carriers: [intents.collection] });
  await intents.settle("02");
  await sweep();
  await intents.settle("02");
  expect((await service.logged()).map(({ audit_id }) => audit_id as string)).toEqual([
    twice.audit_id,
    stored[0]?.audit_id,
  ]);
  expect(await intents.collection.countDocuments({})).toBe(0);
});

import { createHash, randomUUID } from "node:crypto";

import { toJson } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import { type CommandSucceededEvent, type Db, MongoClient } from "mongodb";
import { afterAll, beforeAll, expect, test } from "vitest";

import {
  AuditFault,
  AuditLogService,
  type AuditTreeHead,
} from "../../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import { type AuditRecord, AuditRecordSchema } from "../../../gen/lucid/repository/v1/audit_record_pb.ts";
import { MerkleAlgorithm } from "../../../gen/lucid/repository/v1/merkle_pb.ts";
import { auditLog } from "../../../src/repository/audit/log.ts";
import { type CarriedRecord, chained, emptyHead } from "../../../src/repository/audit/record.ts";
import { type TestApp, testApp } from "../../support/app.ts";
import { stagesOf } from "../../support/served.ts";
import { storeAddresses } from "../../support/stores.ts";
import { refusalOf } from "../support.ts";
import { includes, isConsistent, leaf } from "./rfc9162.ts";

/** Enough for two levels of stored cells and a rest. */
const count = 64 ** 2 + 64 + 7;

let app: TestApp;
let audit: Client<typeof AuditLogService>;
let system: Db;
/** Sees what the store is asked for. */
let watched: MongoClient;
const seen: CommandSucceededEvent[] = [];

beforeAll(async () => {
  app = await testApp();
  audit = app.client(AuditLogService);
  system = app.mongodb.db(app.config.mongodb.systemDatabase, { useBigInt64: true });
  watched = await MongoClient.connect(storeAddresses().mongodbUri, { monitorCommands: true });
  watched.on("commandSucceeded", (event) => seen.push(event));
  // As a version wrote them that knew of no tree. Before there are indexes, since that is faster.
  let last = emptyHead;
  const written = records(count - 1).map((record) => (last = chained(record, last)));
  await system.collection("audit_logs").insertMany(written);
  await using log = logOn(system);
  // The indexes of so many records take a busy machine long.
  await log.append(records(1));
});
afterAll(async () => {
  await watched.close();
  await app[Symbol.asyncDispose]();
});

/** The log as one replica has it. */
function logOn(db: Db) {
  return auditLog(db, { carriers: [], tell: () => expect.unreachable(), waitMs: 200_000 });
}

function records(number: number): CarriedRecord[] {
  return Array.from({ length: number }, () => ({
    audit_id: randomUUID(),
    timestamp: new Date(),
    actor: { id: "anonymous", source_address: "127.0.0.1" },
    rpc: "lucid.repository.v1.UserService/UpdateUser",
    effect: "CHANGED",
    outcome: "OK",
  }));
}

async function idAt(sequence: number, db = system): Promise<string> {
  const found = await db.collection("audit_logs").findOne({ sequence: BigInt(sequence) });
  return String(found?.["audit_id"]);
}

async function headAt(treeSize: number): Promise<AuditTreeHead> {
  const { treeHead } = await audit.getAuditTreeHead({ treeSize: BigInt(treeSize) });
  if (treeHead === undefined) throw new Error("There is no head");
  return treeHead;
}

/** The data of a record's leaf, as `audit_record.proto` tells everybody to compute it. */
function dataOf(record: AuditRecord | undefined): string {
  if (record === undefined) return "";
  // It is the message as JSON, which is an object.
  const { hash: _, ...said } = toJson(AuditRecordSchema, record) as Record<string, unknown>;
  const sorted = (value: unknown): unknown =>
    typeof value === "object" && value !== null && !Array.isArray(value)
      ? Object.fromEntries(
          Object.entries(value)
            .toSorted(([one], [other]) => (one < other ? -1 : 1))
            .map(([name, inner]) => [name, sorted(inner)]),
        )
      : value;
  return createHash("sha256")
    .update(JSON.stringify(sorted(said)))
    .digest("hex");
}

const places = [1, 2, 63, 65, 4095, 4096, 4161, count];

test("every record is proven to be in the tree by RFC 9162 alone, and any other is not", async () => {
  const head = await headAt(0);
  expect(head).toMatchObject({ algorithm: MerkleAlgorithm.RFC6962_SHA256, treeSize: BigInt(count) });
  for (const place of places) {
    const { record, proof, treeHead } = await audit.getAuditInclusionProof({ auditId: await idAt(place) });
    if (proof === undefined || record === undefined) throw new Error("There is no proof");
    expect(treeHead).toEqual(head);
    expect(proof).toMatchObject({ leafIndex: BigInt(place - 1), treeSize: BigInt(count) });
    expect(includes(proof, leaf(dataOf(record)), head.rootHash)).toBe(true);
    const lies: AuditRecord[] = [
      { ...record, actor: { ...record.actor, id: "somebody else" } as NonNullable<AuditRecord["actor"]> },
      { ...record, outcome: "ABORTED" },
      { ...record, sequence: record.sequence + 1n },
    ];
    for (const lie of lies) expect(includes(proof, leaf(dataOf(lie)), head.rootHash)).toBe(false);
    const elsewhere = { ...proof, leafIndex: (proof.leafIndex + 1n) % proof.treeSize };
    expect(includes(elsewhere, leaf(dataOf(record)), head.rootHash)).toBe(false);
  }
});

test("every earlier tree is proven to be the start of every later one, by RFC 9162 alone", async () => {
  for (const first of places) {
    for (const second of places.filter((place) => place >= first)) {
      const proven = await audit.getAuditConsistencyProof({ firstSize: BigInt(first), secondSize: BigInt(second) });
      const [one, other] = [await headAt(first), await headAt(second)];
      expect([proven.first, proven.second]).toEqual([one, other]);
      if (proven.proof === undefined) throw new Error("There is no proof");
      expect(isConsistent(proven.proof, one.rootHash, other.rootHash)).toBe(true);
      expect(isConsistent(proven.proof, "0".repeat(64), other.rootHash)).toBe(false);
      expect(isConsistent(proven.proof, one.rootHash, "0".repeat(64))).toBe(false);
    }
  }
});

test("a record is proven by a head that was kept, too", async () => {
  const kept = await headAt(4000);
  const { record, proof, treeHead } = await audit.getAuditInclusionProof({ auditId: await idAt(7), treeSize: 4000n });
  expect(treeHead).toEqual(kept);
  expect(proof && includes(proof, leaf(dataOf(record)), kept.rootHash)).toBe(true);
});

test("neither head nor proofs read the log, and what they read comes from an index", async () => {
  await using log = logOn(watched.db(system.databaseName, { useBigInt64: true }));
  const { signal } = new AbortController();
  await log.tree.root(count, signal);
  const hash = String((await system.collection("audit_logs").findOne({ sequence: 100n }))?.["hash"]);
  for (const read of [
    () => log.tree.root(count, signal),
    () => log.tree.proveInclusion({ index: 99, size: count, recordHash: hash }, signal),
    () => log.tree.proveConsistency({ firstSize: 2049, secondSize: count }, signal),
  ]) {
    seen.length = 0;
    await read();
    const replies = seen.map(({ reply }) => reply as { cursor: { firstBatch: unknown[]; id: unknown } });
    expect(replies.length).toBeLessThanOrEqual(2);
    expect(replies.reduce((sum, { cursor }) => sum + cursor.firstBatch.length, 0)).toBeLessThan(400);
  }
  for (const [name, filter] of [
    ["audit_logs", { sequence: { $in: [1n, 2n] } }],
    ["audit_subtrees", { _id: { $in: ["1/0", "2/0"] } }],
  ] as const) {
    const plan = await system
      .collection(name)
      .find<object>(filter as object)
      .explain("queryPlanner");
    expect(stagesOf(plan)).not.toContain("COLLSCAN");
  }
});

test("what a process that died has left out is made by whoever comes next", async () => {
  const cells = system.collection<{ _id: string }>("audit_subtrees");
  const before = await cells.find().toArray();
  expect(before).toHaveLength(64 + 1 + 1);
  const heads = await Promise.all([100, 4096, count].map(headAt));
  // It died after some cells and before it said so, or before any.
  for (const lost of [["1/60", "1/64", "2/0"], before.map(({ _id }) => _id)]) {
    await cells.deleteMany({ _id: { $in: lost } });
    const size = lost.length > 3 ? 0n : 3712n;
    await system.collection("audit_heads").updateOne({ _id: "tree" as never }, { $set: { size } });
    await using log = logOn(system);
    const { signal } = new AbortController();
    const roots = await Promise.all([100, 4096, count].map((each) => log.tree.root(each, signal)));
    expect(roots.map((root) => Buffer.from(root).toString("hex"))).toEqual(heads.map(({ rootHash }) => rootHash));
    expect((await cells.find().toArray()).toSorted(byId)).toEqual(before.toSorted(byId));
  }
});

const byId = (one: { _id: string }, other: { _id: string }) => (one._id < other._id ? -1 : 1);

test("replicas that append at once make one tree, whose heads follow from one another", async () => {
  const db = app.mongodb.db(app.databaseName(), { useBigInt64: true });
  const logs = Array.from({ length: 4 }, () => logOn(db));
  const { signal } = new AbortController();
  let isOver = false;
  const audited = (async () => {
    await using auditor = logOn(db);
    let [size, last]: [number, string] = [0, ""];
    for (let wasOver = false; !wasOver;) {
      wasOver = isOver;
      const next = Number((await auditor.head()).sequence);
      if (next === 0) continue;
      const root = Buffer.from(await auditor.tree.root(next, signal)).toString("hex");
      if (size > 0) {
        const sizes = { firstSize: size, secondSize: next };
        const { hashes } = (await auditor.tree.proveConsistency(sizes, signal)).proof;
        const proof = {
          firstSize: BigInt(size),
          secondSize: BigInt(next),
          hashes: hashes.map((each) => Buffer.from(each).toString("hex")),
        };
        expect(isConsistent(proof, last, root)).toBe(true);
      }
      [size, last] = [next, root];
    }
    return size;
  })();
  await Promise.all(
    logs.map(async (log) => {
      for (let turn = 0; turn < 4; turn++) await log.append(records(50));
    }),
  );
  isOver = true;
  expect(await audited).toBe(800);
  const roots = await Promise.all(logs.map((log) => log.tree.root(800, signal)));
  expect(new Set(roots.map((root) => Buffer.from(root).toString("hex"))).size).toBe(1);
  for (const log of logs) await log[Symbol.asyncDispose]();
  expect(await db.collection("audit_subtrees").countDocuments()).toBe(Math.floor(800 / 64));
});

test("what was never there is refused", async () => {
  const beyond = BigInt(count + 1);
  const metadata = { asked: String(beyond), tree_size: String(count) };
  const refused = { code: "OutOfRange", reason: "AUDIT_TREE_OUT_OF_RANGE", metadata };
  for (const client of [audit, app.http(AuditLogService)]) {
    expect(await refusalOf(client.getAuditTreeHead({ treeSize: beyond }))).toMatchObject(refused);
    expect(await refusalOf(client.getAuditConsistencyProof({ firstSize: beyond }))).toMatchObject(refused);
    const auditId = await idAt(100);
    expect(await refusalOf(client.getAuditInclusionProof({ auditId, treeSize: 99n }))).toMatchObject({
      code: "OutOfRange",
      metadata: { asked: "100", tree_size: "99" },
    });
    expect(await refusalOf(client.getAuditConsistencyProof({ firstSize: 2n, secondSize: 1n }))).toMatchObject({
      code: "InvalidArgument",
      fields: ["first_size"],
    });
    expect(await refusalOf(client.getAuditInclusionProof({ auditId: "nobody's" }))).toMatchObject({
      reason: "AUDIT_RECORD_NOT_FOUND",
    });
  }
});

test("an empty log has the root of no leaves", async () => {
  await using other = await testApp();
  const { treeHead } = await other.client(AuditLogService).getAuditTreeHead({});
  expect(treeHead).toMatchObject({ treeSize: 0n, rootHash: createHash("sha256").digest("hex") });
});

/** What somebody does who may write to the database, and what gives it away. */
const damage = { code: "DataLoss", reason: "AUDIT_TREE_DAMAGED" };

test("whoever alters the log is found out, and what is left of it is still proven", async () => {
  const logged = system.collection("audit_logs");
  const kept = await Promise.all([130, 4096, count].map(headAt));
  const auditId = await idAt(70);
  const original = await logged.findOne({ audit_id: auditId });
  if (original === null) throw new Error("There is no record");
  const undo = () => logged.replaceOne({ audit_id: auditId }, original);
  const verified = async () => (await Array.fromAsync(audit.verifyAuditLog({}))).at(-1)?.result;

  // The record says something else than its hash.
  await logged.updateOne({ audit_id: auditId }, { $set: { outcome: "ABORTED" } });
  expect(await refusalOf(audit.getAuditInclusionProof({ auditId }))).toMatchObject(damage);
  await undo();

  // Its hash says something else than the tree: its neighbours are not proven any more.
  await logged.updateOne({ audit_id: auditId }, { $set: { hash: "f".repeat(64) } });
  expect(await refusalOf(audit.getAuditInclusionProof({ auditId: await idAt(71) }))).toMatchObject(damage);
  // Which begins in the middle of what was altered.
  expect(await refusalOf(audit.getAuditConsistencyProof({ firstSize: 100n }))).toMatchObject(damage);
  await undo();

  // The stored tree: roots that were kept are not made of it any more.
  const cells = system.collection<{ _id: string; hash: string }>("audit_subtrees");
  const cell = await cells.findOneAndUpdate({ _id: "1/1" }, { $set: { hash: "f".repeat(64) } });
  expect((await headAt(130)).rootHash).not.toBe(kept[0]?.rootHash);
  expect(await refusalOf(audit.getAuditInclusionProof({ auditId: await idAt(10) }))).toMatchObject(damage);
  expect(await verified()).toMatchObject({ whole: false, fault: AuditFault.TREE, faultSequence: 128n });
  await cells.deleteOne({ _id: "1/1" });
  expect(await verified()).toMatchObject({ whole: false, fault: AuditFault.TREE, faultSequence: 128n });
  await cells.insertOne({ _id: "1/1", hash: cell?.hash ?? "" });
  expect(await verified()).toMatchObject({ whole: true });

  // Records that were removed for good, by whole cells: heads stay, and so do the proofs of the others.
  const removed = await logged.find({ sequence: { $lte: 128n } }).toArray();
  await logged.deleteMany({ sequence: { $lte: 128n } });
  for (const head of kept) expect(await headAt(Number(head.treeSize))).toEqual(head);
  const { record, proof } = await audit.getAuditInclusionProof({ auditId: await idAt(129) });
  expect(proof && includes(proof, leaf(dataOf(record)), kept.at(-1)?.rootHash ?? "")).toBe(true);
  const { proof: between } = await audit.getAuditConsistencyProof({ firstSize: 130n });
  expect(between && isConsistent(between, kept[0]?.rootHash ?? "", kept.at(-1)?.rootHash ?? "")).toBe(true);
  expect(await refusalOf(audit.getAuditConsistencyProof({ firstSize: 100n }))).toMatchObject(damage);
  await logged.insertMany(removed);

  // What vanished from the end is missed.
  await logged.deleteOne({ sequence: BigInt(count) });
  expect(await refusalOf(audit.getAuditTreeHead({}))).toMatchObject(damage);
});

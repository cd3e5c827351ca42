import type { Client } from "@connectrpc/connect";
import { type Document, Double, Long, UUID } from "mongodb";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { AuditFault, AuditLogService } from "../../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import { chained, type LoggedRecord } from "../../../src/repository/audit/record.ts";
import { newUser, type UsersApp, usersApp } from "../support.ts";

let service: UsersApp;
let audit: Client<typeof AuditLogService>;
let written: LoggedRecord[];

const records = () => {
  const { systemDatabase } = service.app.config.mongodb;
  return service.app.mongodb.db(systemDatabase, { useBigInt64: true }).collection("audit_logs");
};

beforeAll(async () => {
  service = await usersApp();
  audit = service.app.client(AuditLogService);
  const { userId } = await newUser(service.users);
  for (let count = 1; count < 8; count++) await service.users.incrementSessionCount({ userId });
  await audit.getAuditHead({});
  written = await records()
    .find<LoggedRecord>({}, { sort: { sequence: 1 } })
    .toArray();
});
beforeEach(async () => {
  await records().deleteMany({});
  await records().insertMany(written);
});
afterAll(() => service[Symbol.asyncDispose]());

async function resultOf(request: Parameters<typeof audit.verifyAuditLog>[0] = {}) {
  const steps = await Array.fromAsync(audit.verifyAuditLog(request));
  expect(steps.slice(0, -1).every(({ result }) => result === undefined)).toBe(true);
  return steps.at(-1)?.result;
}

const at = (sequence: number) => {
  const found = written[sequence - 1];
  if (found === undefined) throw new Error(`There is no record ${sequence}`);
  return found;
};

async function set(sequence: number, change: Document): Promise<void> {
  await records().updateOne({ sequence: BigInt(sequence) }, { $set: change }, { bypassDocumentValidation: true });
}

/** Writes all records from one on anew, so that the chain is whole. */
async function rewrite(from: number, change: object): Promise<void> {
  let last = { sequence: BigInt(from - 1), hash: from === 1 ? "0".repeat(64) : at(from - 1).hash };
  for (let sequence = from; sequence <= written.length; sequence++) {
    const { hash: _hash, previous_hash: _previous, ...record } = at(sequence);
    const made = chained({ ...record, ...(sequence === from && change) }, last);
    await records().replaceOne({ sequence: BigInt(sequence) }, made);
    last = made;
  }
}

test("a log that nobody has touched is whole, from its beginning and from any record on", async () => {
  const head = { sequence: 8n, hash: at(8).hash };
  expect(await resultOf()).toMatchObject({ whole: true, head });
  expect(await resultOf({ afterSequence: 5n })).toMatchObject({ whole: true, head });
  expect(await resultOf({ afterSequence: 8n })).toMatchObject({ whole: true, head });
  expect(await resultOf({ expected: { sequence: 3n, hash: at(3).hash } })).toMatchObject({ whole: true, head });
});

/** What somebody who may write to the database does, and what is found: the fault, and the place of the record. */
const deeds: readonly [string, () => Promise<unknown>, AuditFault, number][] = [
  ["edits who did it", () => set(4, { "actor.id": "somebody else" }), AuditFault.ALTERED, 4],
  ["edits when it was", () => set(4, { timestamp: new Date(0) }), AuditFault.ALTERED, 4],
  ["edits a hash", () => set(4, { hash: "f".repeat(64) }), AuditFault.ALTERED, 4],
  ["adds a field", () => set(4, { note: "all is well" }), AuditFault.ALTERED, 4],
  ["adds a field to a part", () => set(4, { "actor.note": "all is well" }), AuditFault.ALTERED, 4],
  ["makes a list of a text", () => set(4, { effect: [at(4).effect] }), AuditFault.ALTERED, 4],
  [
    "makes an id that nothing finds of its text",
    () => set(4, { audit_id: new UUID(at(4).audit_id) }),
    AuditFault.ALTERED,
    4,
  ],
  ["edits and computes the hash anew", async () => set(4, altered(4)), AuditFault.UNLINKED, 5],
  ["deletes the first", () => records().deleteOne({ sequence: 1n }), AuditFault.MISSING, 1],
  ["deletes one in the middle", () => records().deleteOne({ sequence: 4n }), AuditFault.MISSING, 4],
  ["deletes the last", () => records().deleteOne({ sequence: 8n }), AuditFault.MISSING, 8],
  ["deletes all", () => records().deleteMany({}), AuditFault.MISSING, 1],
  ["swaps two", swap, AuditFault.ALTERED, 3],
  [
    "puts one between others",
    () => records().insertOne({ ...at(4), _id: undefined, audit_id: "another", sequence: 4.5 } as Document),
    AuditFault.FOREIGN,
    5,
  ],
  [
    "puts one beside the others",
    () =>
      records().insertOne({ ...at(4), _id: undefined, audit_id: "another", sequence: Long.fromNumber(-1) } as Document),
    AuditFault.FOREIGN,
    0,
  ],
];

function altered(sequence: number): Document {
  const { hash: _, ...record } = at(sequence);
  return chained(
    { ...record, actor: { id: "somebody else" } },
    { sequence: BigInt(sequence - 1), hash: record.previous_hash },
  );
}

async function swap(): Promise<void> {
  await set(3, { sequence: 99n });
  await set(6, { sequence: 3n });
  await set(99, { sequence: 6n });
}

test.for(deeds)("whoever %s is found out", async ([, deed, fault, sequence]) => {
  await deed();
  expect(await resultOf()).toMatchObject({ whole: false, fault, faultSequence: BigInt(sequence) });
});

test("a record that another begins after is looked at too", async () => {
  await set(4, { sequence: new Double(4) });
  expect(await resultOf({ afterSequence: 4n })).toMatchObject({ fault: AuditFault.ALTERED, faultSequence: 4n });
});

test("whoever writes the log anew is found out by whoever has kept a head", async () => {
  await rewrite(4, { outcome: "NOT_FOUND" });
  expect(await resultOf()).toMatchObject({ whole: true });
  const expected = { sequence: 6n, hash: at(6).hash };
  expect(await resultOf({ expected })).toMatchObject({ fault: AuditFault.NOT_EXPECTED, faultSequence: 6n });
});

test("places of records that vanished are not given away again", async () => {
  await records().deleteMany({ sequence: { $gte: 7n } });
  await newUser(service.users);
  expect(await resultOf()).toMatchObject({ fault: AuditFault.MISSING, faultSequence: 7n });
  expect((await audit.getAuditHead({})).head?.sequence).toBe(9n);
});

import { randomUUID } from "node:crypto";

import { Code, ConnectError, createClient, createRouterTransport } from "@connectrpc/connect";
import fc from "fast-check";
import { type Db, MongoClient } from "mongodb";
import { afterAll, beforeAll, expect, test } from "vitest";

import { ChunkStatus } from "../../gen/lucid/repository/v1/chunk_pb.ts";
import { SessionService } from "../../gen/lucid/repository/v1/session_service_pb.ts";
import type { KeptCollections } from "../../src/repository/kept-collections.ts";
import { sessionService } from "../../src/repository/session.ts";
import { pageTokens } from "../../src/schema/page-tokens.ts";
import { runs, within } from "../support/sequences.ts";
import { storeAddresses, uniqueName } from "../support/stores.ts";
import { chunkInit, countedRows, countersOf, newSession, type Sessions } from "./session-support.ts";
import { noWatches, patientCollections } from "./support.ts";

let client: MongoClient;
let db: Db;
let collections: KeptCollections;
beforeAll(async () => {
  client = await MongoClient.connect(storeAddresses().mongodbUri);
  db = client.db(uniqueName("counters"), { useBigInt64: true });
  collections = patientCollections(db);
});
afterAll(async () => {
  await db.dropDatabase();
  await client.close();
});

/** Where a process dies: at its n-th statement, before the store has carried it out or right after. */
interface Death {
  readonly statement: number;
  readonly when: "before" | "after";
}

const statements = ["findOne", "findOneAndUpdate", "insertMany", "insertOne", "updateOne"] as const;

/** A process that serves sessions from the shared store until it dies; from then on it does nothing more. */
function replica(death?: Death): Sessions {
  const own = client.db(db.databaseName, { useBigInt64: true });
  let count = 0;
  const carriedOut = async <T>(statement: () => Promise<T>): Promise<T> => {
    count += 1;
    const isLast = count === death?.statement;
    if (death !== undefined && (count > death.statement || (isLast && death.when === "before")))
      throw new Error("Dead");
    const result = await statement();
    if (isLast) throw new Error("Dead");
    return result;
  };
  const open = own.collection.bind(own);
  own.collection = ((name: string) => {
    const collection = open(name);
    for (const method of statements) {
      const statement = collection[method].bind(collection) as (...args: unknown[]) => Promise<unknown>;
      Object.defineProperty(collection, method, {
        value: (...args: unknown[]) => carriedOut(() => statement(...args)),
      });
    }
    return collection;
  }) as Db["collection"];
  const tokens = pageTokens("");
  const handlers = sessionService({ db: own, collections, pageTokens: async () => tokens, watches: noWatches });
  const transport = createRouterTransport(({ service }) => {
    service(SessionService, handlers);
  });
  return createClient(SessionService, transport);
}

/** What a caller does, one after the other, with one of the sessions. */
type Step =
  | { readonly kind: "add"; readonly index: number; readonly status: ChunkStatus }
  | { readonly kind: "upload"; readonly indexes: readonly number[] }
  | { readonly kind: "step"; readonly index: number; readonly status: ChunkStatus };

const { PENDING, UPLOADING, UPLOADED, PROCESSING, ENCRYPTED, STORED, FAILED } = ChunkStatus;
// Few indexes, so that callers get in each other's way.
const index = fc.integer({ min: 0, max: 25 });
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ kind: fc.constant("add" as const), index, status: fc.constantFrom(PENDING, UPLOADING, UPLOADED) }),
  fc.record({ kind: fc.constant("upload" as const), indexes: fc.array(index, { minLength: 1, maxLength: 8 }) }),
  fc.record({
    kind: fc.constant("step" as const),
    index,
    status: fc.constantFrom(PENDING, UPLOADED, PROCESSING, ENCRYPTED, STORED, FAILED),
  }),
);
const caller = fc.record({
  session: fc.integer({ min: 0, max: 1 }),
  steps: fc.array(step, { minLength: 1, maxLength: 3 }),
  death: fc.option(fc.record({ statement: fc.integer({ min: 1, max: 9 }), when: fc.constantFrom("before", "after") }), {
    nil: undefined,
    freq: 2,
  }),
});

async function* once<T>(message: T) {
  yield message;
}

async function take(sessions: Sessions, sessionId: string, what: Step): Promise<void> {
  if (what.kind === "add") {
    await sessions.addChunk({ sessionId, chunk: chunkInit(what.index, { status: what.status as never }) });
  } else if (what.kind === "upload") {
    await sessions.addChunks(once({ sessionId, chunks: what.indexes.map((at) => chunkInit(at)) }));
  } else {
    const chunk = await db.collection("chunks").findOne({ session_id: sessionId, chunk_index: BigInt(what.index) });
    if (chunk === null) return;
    const chunkId = String(chunk["chunk_id"]);
    const encryptedHash = what.status === ENCRYPTED ? { encryptedHash: "ab".repeat(32) } : {};
    await sessions.updateChunkStatus({ chunkId, status: what.status, ...encryptedHash });
  }
}

/** Reads a session again and again: what it says lies between the chunks before and after. Returns how often. */
async function watches(sessions: Sessions, sessionId: string, isOver: () => boolean): Promise<number> {
  const rows = async () => BigInt(await db.collection("chunks").countDocuments({ session_id: sessionId }));
  let reads = 0;
  while (!isOver()) {
    const before = await rows();
    const { session } = await sessions.getSession({ sessionId });
    const after = await rows();
    expect(session?.totalChunks).toBeGreaterThanOrEqual(before);
    expect(session?.totalChunks).toBeLessThanOrEqual(after);
    reads += 1;
  }
  return reads;
}

async function expectEqual(sessions: Sessions, sessionId: string): Promise<void> {
  const rows = await countedRows(db, sessionId);
  expect(countersOf((await sessions.getSession({ sessionId })).session)).toEqual(rows);
  const { sessions: listed } = await sessions.listSessions({ pageSize: 1000 });
  expect(countersOf(listed.find((one) => one.sessionId === sessionId))).toEqual(rows);
}

test(
  "counters equal the chunks, whoever of 50 callers at once dies between two writes",
  { timeout: within() },
  async () => {
    const healthy = replica();
    const stored = (sessionId: string) => db.collection("sessions").findOne({ session_id: sessionId });
    let deaths = 0;
    const property = fc.asyncProperty(fc.array(caller, { minLength: 50, maxLength: 50 }), async (callers) => {
      const made = [await newSession(healthy), await newSession(healthy)].map(({ sessionId }) => sessionId);
      let isOver = false;
      const reading = Promise.all(made.map((sessionId) => watches(replica(), sessionId, () => isOver)));
      await Promise.all(
        callers.map(async ({ session, steps, death }) => {
          const sessions = replica(death);
          for (const what of steps) {
            try {
              await take(sessions, made[session] ?? "", what);
            } catch (error) {
              const { code } = ConnectError.from(error);
              // Of the healthy ones, only steps that a state does not allow are refused, and those that others are faster with.
              const isDead = death !== undefined && [Code.Internal, Code.Unknown].includes(code);
              if (!isDead) expect([Code.FailedPrecondition, Code.Aborted]).toContain(code);
              if (isDead) deaths += 1;
            }
          }
        }),
      );
      isOver = true;
      expect(Math.min(...(await reading))).toBeGreaterThan(0);
      for (const sessionId of made) {
        await expectEqual(healthy, sessionId);
        // Long after, what the dead have announced is given up, and the session is as if nobody had died.
        const long = { $set: { "_chunk_writes.$[].at": new Date(Date.now() - 3_600_000) } };
        await db
          .collection("sessions")
          .updateOne({ session_id: sessionId, "_chunk_writes.0": { $exists: true } }, long);
        await expectEqual(healthy, sessionId);
        expect(await stored(sessionId)).toMatchObject({
          total_chunks: (await countedRows(db, sessionId)).totalChunks,
          _chunk_writes: [],
          _chunk_write_bytes: 0n,
        });
        await healthy.addChunk({ sessionId, chunk: chunkInit(1000) });
        await expectEqual(healthy, sessionId);
      }
    });
    await fc.assert(property, runs({ numRuns: 3, endOnFailure: true }, 50));
    expect(deaths).toBeGreaterThan(10);
  },
);

test("a write that outlives its announcement is counted all the same", async () => {
  const { sessionId } = await newSession(replica());
  const own = client.db(db.databaseName, { useBigInt64: true });
  const open = own.collection.bind(own);
  // A process that stands still after it has announced, until the announcement is given up and the session is read.
  own.collection = ((name: string) => {
    const collection = open(name);
    if (name !== "chunks") return collection;
    const insertMany = collection.insertMany.bind(collection);
    const late = async (...args: Parameters<typeof insertMany>) => {
      await db
        .collection("sessions")
        .updateOne({ session_id: sessionId }, { $set: { "_chunk_writes.0.at": new Date(0) } });
      const { session } = await replica().getSession({ sessionId });
      expect(session?.totalChunks).toBe(0n);
      return insertMany(...args);
    };
    return Object.defineProperty(collection, "insertMany", { value: late });
  }) as Db["collection"];
  const tokens = pageTokens("");
  const handlers = sessionService({ db: own, collections, pageTokens: async () => tokens, watches: noWatches });
  const transport = createRouterTransport(({ service }) => {
    service(SessionService, handlers);
  });
  await createClient(SessionService, transport).addChunk({ sessionId, chunk: chunkInit(0) });
  await expectEqual(replica(), sessionId);
  expect(await db.collection("sessions").findOne({ session_id: sessionId })).toMatchObject({
    total_chunks: 1n,
    _chunk_writes: [],
    _chunk_write_bytes: 0n,
  });
});

test("many announcements that fail leave the session as it was", async () => {
  const sessions = replica();
  const { sessionId } = await newSession(sessions, { userId: randomUUID() });
  const { chunk } = await sessions.addChunk({ sessionId, chunk: chunkInit(0, { status: UPLOADED }) });
  const { session } = await sessions.getSession({ sessionId });
  const chunkId = chunk?.chunkId ?? "";
  await Promise.allSettled(Array.from({ length: 20 }, () => sessions.updateChunkStatus({ chunkId, status: PENDING })));
  expect((await sessions.getSession({ sessionId })).session).toStrictEqual(session);
});

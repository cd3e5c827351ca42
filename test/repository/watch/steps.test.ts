import { randomUUID } from "node:crypto";

import * as fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";

import { type Block, BlockStatus } from "../../../gen/lucid/repository/v1/block_pb.ts";
import { BlockService, type WatchBlocksResponse } from "../../../gen/lucid/repository/v1/block_service_pb.ts";
import { SessionStatus } from "../../../gen/lucid/repository/v1/session_pb.ts";
import { SessionService, type WatchSessionsResponse } from "../../../gen/lucid/repository/v1/session_service_pb.ts";
import { TransactionStatus } from "../../../gen/lucid/repository/v1/transaction_pb.ts";
import {
  TransactionService,
  type WatchTransactionsResponse,
} from "../../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { WatchEventType, WatchEventTypeSchema } from "../../../gen/lucid/repository/v1/watch_pb.ts";
import { storedMessages } from "../../../src/repository/collections.ts";
import { mark } from "../../../src/repository/lifecycle/remove.ts";
import { storedKinds } from "../../../src/repository/lifecycle/stored-kinds.ts";
import { type TestApp, testApp } from "../../support/app.ts";
import { uniqueName } from "../../support/stores.ts";
import { newBlock, newChain } from "../block-support.ts";
import { newSession, pipeline } from "../session-support.ts";
import { refusalOf } from "../support.ts";
import { newTransaction } from "../transaction-support.ts";
import { isCheckpoint, watching } from "./support.ts";

/** Two replicas of the service. */
let one: TestApp;
let two: TestApp;
let stack: AsyncDisposableStack;
const database = { LUCID_MONGODB_DATABASE: uniqueName("watch"), LUCID_MONGODB_SYSTEM_DATABASE: uniqueName("watch") };
beforeAll(async () => {
  stack = new AsyncDisposableStack();
  one = stack.use(await testApp(database));
  two = stack.use(await testApp(database));
  stack.defer(async () => {
    for (const name of Object.values(database)) await one.mongodb.db(name).dropDatabase();
  });
});
afterAll(() => stack.disposeAsync());

/** Large enough that the server tells what was changed, and not the whole. */
const metadata = { text: "x".repeat(20_000) };

function typeOf({ type }: { readonly type: WatchEventType }): string {
  return WatchEventTypeSchema.value[type]?.localName ?? "";
}

/** The token of a watch that has just begun. */
async function begin(stream: AsyncIterable<{ type: WatchEventType; resumeToken: string }>): Promise<string> {
  for await (const event of stream) if (isCheckpoint(event)) return event.resumeToken;
  return "";
}

/** All events until one `is` the last. */
async function until<E>(stream: AsyncIterable<E>, is: (event: E) => boolean): Promise<E[]> {
  const events: E[] = [];
  for await (const event of stream) {
    events.push(event);
    if (is(event)) return events;
  }
  return events;
}

test("each step of a session is told, in order, however late it is read", async () => {
  const [sessions, elsewhere] = [one.client(SessionService), two.client(SessionService)];
  const userId = randomUUID();
  const filter = { userId };
  using live = watching((options) => sessions.watchSessions({ filter }, options));
  await live.until(isCheckpoint);
  const steps = fc.array(fc.constantFrom("next", "next", "next", "name", "fail"), { minLength: 1, maxLength: 9 });
  const endMs = performance.now() + 30_000;
  let walks = 0;
  await fc.assert(
    fc.asyncProperty(fc.tuple(steps, steps), async (both) => {
      if (performance.now() > endMs) return;
      const resumeToken = await begin(sessions.watchSessions({ filter, changesOnly: true }));
      const request = { filter, changesOnly: true, resumeToken };
      const walked = await Promise.all(
        both.map(async (walk) => {
          const { sessionId } = await newSession(sessions, { userId, metadata });
          const states: SessionStatus[] = [SessionStatus.PENDING];
          for (const step of walk) {
            if (step === "name") {
              await sessions.updateSession({ session: { sessionId, sessionName: randomUUID() } });
              continue;
            }
            const at = pipeline.findIndex((state) => state === states.at(-1));
            const status = step === "fail" ? SessionStatus.FAILED : (pipeline[at + 1] ?? SessionStatus.FAILED);
            const stepped = await sessions.updateSessionStatus({ sessionId, status }).catch(() => undefined);
            if (stepped?.session !== undefined) states.push(stepped.session.status);
          }
          return { sessionId, states };
        }),
      );
      const { sessionId: last } = await newSession(sessions, { userId, metadata });
      const late = await until(elsewhere.watchSessions(request), ({ sessionId }) => sessionId === last);
      await live.until(({ sessionId }) => sessionId === last);
      for (const { sessionId, states } of walked) {
        for (const events of [late, live.events]) {
          const told = events.filter((event) => event.sessionId === sessionId);
          expect(told.map(({ status }) => status)).toEqual(states);
          const revisions = told.map(({ revision }) => revision);
          expect(revisions).toEqual([...new Set(revisions)].toSorted((x, y) => Number(x - y)));
          for (const { session, revision, status } of told) {
            if (session !== undefined) expect(session).toMatchObject({ revision, status });
          }
        }
      }
      walks += 1;
    }),
    { numRuns: 15 },
  );
  expect(walks).toBeGreaterThan(2);
});

test("sessions are watched by user and by id, and told when they go", async () => {
  const sessions = one.client(SessionService);
  const userId = randomUUID();
  const [mine, other] = [
    await newSession(sessions, { userId, metadata }),
    await newSession(sessions, { userId, metadata }),
  ];
  await newSession(sessions, { metadata });
  const ofUser = { filter: { userId } };
  const ofOne = { sessionId: mine.sessionId };
  const isEnd = ({ type, sessionId }: WatchSessionsResponse) =>
    type === WatchEventType.REMOVED && sessionId === mine.sessionId;
  using byUser = watching((options) => sessions.watchSessions(ofUser, options));
  using byId = watching((options) => sessions.watchSessions(ofOne, options));
  await Promise.all([byUser.until(isCheckpoint), byId.until(isCheckpoint)]);
  const [token] = byUser.events.filter(isCheckpoint).map(({ resumeToken }) => resumeToken);
  expect(byUser.events.map(({ sessionId }) => sessionId)).toEqual([mine.sessionId, other.sessionId, ""]);
  expect(byId.events.map(({ sessionId }) => sessionId)).toEqual([mine.sessionId, ""]);
  expect(byId.events[0]?.session).toEqual(mine);
  await newSession(sessions, { metadata });
  await sessions.updateSessionStatus({ sessionId: other.sessionId, status: SessionStatus.CANCELLED });

  // As a job that erases removes it: marked, and gone at once.
  const db = one.mongodb.db(one.config.mongodb.database, { useBigInt64: true });
  const kind = storedKinds(storedMessages).find(({ name }) => name === "sessions");
  if (kind === undefined) throw new Error("There are no sessions");
  const session = { session_id: mine.sessionId };
  await mark(kind, session, { db });
  await db.collection("sessions").deleteOne(session);
  await Promise.all([byUser.until(isEnd), byId.until(isEnd)]);
  expect(byUser.events.slice(3).map((event) => [typeOf(event), event.sessionId])).toEqual([
    ["CHANGED", other.sessionId],
    ["REMOVED", mine.sessionId],
  ]);
  expect(byId.events.slice(2).map(typeOf)).toEqual(["REMOVED"]);
  // Who was away meanwhile is told too, by a replica that has watched nothing before.
  await using third = await testApp(database);
  const late = await until(third.client(SessionService).watchSessions({ ...ofUser, resumeToken: token ?? "" }), isEnd);
  expect(late.map((event) => [typeOf(event), event.sessionId])).toEqual([
    ["CHANGED", other.sessionId],
    ["REMOVED", mine.sessionId],
  ]);
});

test("transactions are watched by what a list takes, and each status is told", async () => {
  const [transactions, overHttp, elsewhere] = [
    one.client(TransactionService),
    one.http(TransactionService),
    two.client(TransactionService),
  ];
  const address = `A${randomUUID()}`;
  const payload = { case: "json", value: metadata } as const;
  const before = await newTransaction(transactions, { fromAddress: address, payload });
  await newTransaction(transactions, { payload });
  const filter = { address };
  using watch = watching((options) => overHttp.watchTransactions({ filter }, options));
  await watch.until(isCheckpoint);
  const [token] = watch.events.filter(isCheckpoint).map(({ resumeToken }) => resumeToken);
  expect(watch.events.map(({ transactionId }) => transactionId)).toEqual([before.transactionId, ""]);
  expect(watch.events[0]?.transaction).toEqual(before);
  const waiting = { status: TransactionStatus.IN_MEMPOOL };
  using inMempool = watching((options) => transactions.watchTransactions({ filter: waiting }, options));
  await inMempool.until(isCheckpoint);

  const { transactionId } = await newTransaction(transactions, { toAddress: address, payload });
  for (const status of [TransactionStatus.IN_MEMPOOL, TransactionStatus.REJECTED] as const) {
    await transactions.updateTransactionStatus({ transactionId, status });
  }
  const isEnd = (event: WatchTransactionsResponse) =>
    event.transactionId === transactionId && event.status === TransactionStatus.REJECTED;
  const expected = [TransactionStatus.PENDING, TransactionStatus.IN_MEMPOOL, TransactionStatus.REJECTED];
  await watch.until(isEnd);
  expect(watch.events.slice(2).map(({ status }) => status)).toEqual(expected);
  const late = await until(elsewhere.watchTransactions({ filter, resumeToken: token ?? "" }), isEnd);
  expect(late.map(({ status }) => status)).toEqual(expected);
  await inMempool.until(isEnd);
  expect(inMempool.events.filter((event) => event.transactionId === transactionId).map(typeOf)).toEqual([
    "CHANGED",
    "REMOVED",
  ]);

  const unserved = { filter: { status: TransactionStatus.FAILED, blockId: "a".repeat(64) } };
  expect(await refusalOf(Array.fromAsync(transactions.watchTransactions(unserved)))).toMatchObject({
    reason: "BAD_REQUEST",
    fields: ["filter"],
  });
  expect(await begin(transactions.watchTransactions({ ...unserved, changesOnly: true }))).not.toBe("");
});

test("no block is lost over calls that begin at a height or a token, on either replica", async () => {
  const clients = [one.client(BlockService), two.client(BlockService)] as const;
  const [blocks] = clients;
  const made: Block[] = [...(await newChain(blocks, 3))];
  const count = 15;
  const writing = (async () => {
    while (made.length < count) made.push(await newBlock(blocks, made.at(-1)));
  })();
  const heights: bigint[] = [];
  let resumeToken = "";
  for (let turn = 0; heights.length < count; turn++) {
    // A height from the second turn on, a token from the one after, and so on.
    const afterHeight = heights.at(-1) ?? -1n;
    const request = turn % 3 === 1 ? { afterHeight } : { afterHeight, resumeToken };
    let left = 1 + (turn % 4);
    for await (const event of clients[turn % 2 === 0 ? 0 : 1].watchBlocks({
      ...request,
      checkpointInterval: { seconds: 1n },
    })) {
      if (event.type !== WatchEventType.EXISTING) resumeToken = event.resumeToken;
      const isNew = event.type === WatchEventType.EXISTING || event.type === WatchEventType.CREATED;
      // A token of before the height tells again what the height has told.
      if (isNew && event.height > (heights.at(-1) ?? -1n)) heights.push(event.height);
      left -= 1;
      if (left <= 0 && resumeToken !== "") break;
    }
  }
  await writing;
  expect(heights).toEqual(made.map(({ height }) => height));
});

test("a block that leaves the chain is told as removed, and what takes its place as created", async () => {
  const [blocks, elsewhere] = [one.client(BlockService), two.client(BlockService)];
  const { block: top } = await blocks.getLatestBlock({});
  if (top === undefined) throw new Error("There is no chain");
  using watch = watching((options) => blocks.watchBlocks({ afterHeight: top.height - 2n }, options));
  await watch.until(isCheckpoint);
  const [token] = watch.events.filter(isCheckpoint).map(({ resumeToken }) => resumeToken);
  expect(watch.events.map(typeOf)).toEqual(["EXISTING", "EXISTING", "CHECKPOINT"]);
  expect(watch.events[1]?.block).toEqual(top);
  await blocks.markBlockOrphaned({ blockId: top.blockId });
  const { block: below } = await blocks.getLatestBlock({});
  const instead = await newBlock(blocks, below);
  await blocks.updateBlockStatus({ blockId: instead.blockId, status: BlockStatus.VALIDATING });
  await blocks.updateConfirmations({ blockId: instead.blockId, confirmations: 3n });
  await blocks.updateBlockStatus({ blockId: instead.blockId, status: BlockStatus.CONFIRMED });
  const isEnd = ({ status }: WatchBlocksResponse) => status === BlockStatus.CONFIRMED;
  const stepsOf = (events: readonly WatchBlocksResponse[]) => {
    const steps = events.filter(({ blockId }) => [top.blockId, instead.blockId].includes(blockId));
    // The server tells of a small document only that it was changed.
    const changed = steps.filter((event, index) => index === 0 || event.status !== steps[index - 1]?.status);
    return changed.map((event) => [typeOf(event), event.height, event.status]);
  };
  await watch.until(isEnd);
  const expected = [
    ["REMOVED", top.height, BlockStatus.ORPHANED],
    ["CREATED", top.height, BlockStatus.PENDING],
    ["CHANGED", top.height, BlockStatus.VALIDATING],
    ["CHANGED", top.height, BlockStatus.CONFIRMED],
  ];
  expect(stepsOf(watch.events.slice(3))).toEqual(expected);
  expect(stepsOf(await until(elsewhere.watchBlocks({ resumeToken: token ?? "" }), isEnd))).toEqual(expected);
});

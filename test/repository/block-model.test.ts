import { createClient, createRouterTransport } from "@connectrpc/connect";
import fc from "fast-check";
import { type Collection, type Db, MongoClient } from "mongodb";
import { afterAll, beforeAll, expect, test } from "vitest";

import { type Block, BlockStatus } from "../../gen/lucid/repository/v1/block_pb.ts";
import { BlockService } from "../../gen/lucid/repository/v1/block_service_pb.ts";
import { blockService } from "../../src/repository/block.ts";
import { pageTokens } from "../../src/schema/page-tokens.ts";
import { runs, within } from "../support/sequences.ts";
import { storeAddresses, uniqueName } from "../support/stores.ts";
import { allOf, type Blocks, blockInit, newHash } from "./block-support.ts";
import { noWatches, patientCollections, refusalOf } from "./support.ts";

/** Chains that sequences run on side by side: a database has one chain. */
const lanes = 8;

let client: MongoClient;
const databases: Db[] = [];
beforeAll(async () => {
  client = await MongoClient.connect(storeAddresses().mongodbUri);
  for (let lane = 0; lane < lanes; lane++) databases.push(client.db(uniqueName("chain"), { useBigInt64: true }));
  await Promise.all(databases.map((db) => patientCollections(db).ready()));
});
afterAll(async () => {
  await Promise.all(databases.map((db) => db.dropDatabase()));
  await client.close();
});

/** The handlers on a chain, without a listener between. */
function handlersOn(db: Db): Blocks {
  const tokens = pageTokens("");
  const handlers = blockService({
    db,
    collections: { ready: async () => {} },
    pageTokens: async () => tokens,
    watches: noWatches,
  });
  return createClient(
    BlockService,
    createRouterTransport(({ service }) => {
      service(BlockService, handlers);
    }),
  );
}

/** Runs a property on all lanes at once, each with its share of the usual number of runs. */
async function onEachLane<T>(
  usual: number,
  arbitrary: fc.Arbitrary<T>,
  property: (db: Db, value: T) => Promise<void>,
): Promise<void> {
  await Promise.all(
    databases.map((db, lane) =>
      fc.assert(
        fc.asyncProperty(arbitrary, async (value) => {
          await db.collection("blocks").deleteMany({});
          await property(db, value);
        }),
        runs({ seed: 6100 + lane, numRuns: Math.ceil(usual / lanes) }, lanes),
      ),
    ),
  );
}

/** What callers do. `at` picks a block: counted from the last one down, orphaned ones after those of the chain. */
type Operation =
  | { readonly kind: "create" | "fork" | "repeat" | "stray" }
  | { readonly kind: "orphan" | "finalize" | "validate" | "confirm"; readonly at: number }
  | { readonly kind: "count"; readonly at: number; readonly confirmations: bigint };

const at = fc.nat({ max: 4 });
const operation: fc.Arbitrary<Operation> = fc.oneof(
  { arbitrary: fc.constant({ kind: "create" as const }), weight: 5 },
  { arbitrary: fc.record({ kind: fc.constantFrom("fork", "repeat", "stray") }), weight: 1 },
  { arbitrary: fc.record({ kind: fc.constantFrom("orphan", "finalize"), at }), weight: 3 },
  { arbitrary: fc.record({ kind: fc.constantFrom("validate", "confirm"), at }), weight: 4 },
  { arbitrary: fc.record({ kind: fc.constant("count" as const), at, confirmations: fc.bigInt(0n, 5n) }), weight: 1 },
);

/** A block as the model has it. */
interface Known {
  readonly blockId: string;
  readonly height: bigint;
  readonly previousHash: string;
  status: "PENDING" | "VALIDATING" | "CONFIRMED" | "FINALIZED" | "ORPHANED";
  confirmations: bigint;
}

/** The chain as a plain list, and what has left it. */
class Model {
  readonly chain: Known[] = [];
  readonly orphaned: Known[] = [];

  pick(index: number): Known | undefined {
    const all = [...this.chain.toReversed(), ...this.orphaned];
    return all.length === 0 ? undefined : all[index % all.length];
  }

  /** What the operation is sent as, and how it must end: a reason, or undefined where it succeeds. */
  plan(operation_: Operation): { call: (blocks: Blocks) => Promise<unknown>; reason: string | undefined } | undefined {
    const last = this.chain.at(-1);
    switch (operation_.kind) {
      case "create": {
        const init = blockInit(last);
        const { blockId = "", height = 0n, previousHash = "" } = init;
        this.chain.push({ blockId, height, previousHash, status: "PENDING", confirmations: 0n });
        return { call: (blocks) => blocks.createBlock({ block: init }), reason: undefined };
      }
      case "fork":
        if (last === undefined) return undefined;
        return {
          call: (blocks) => blocks.createBlock({ block: blockInit(this.chain.at(-2)) }),
          reason: "BLOCK_ALREADY_EXISTS",
        };
      case "repeat": {
        const some = this.orphaned.at(-1) ?? last;
        if (some === undefined) return undefined;
        return {
          call: (blocks) => blocks.createBlock({ block: blockInit(last, { blockId: some.blockId }) }),
          reason: "BLOCK_ALREADY_EXISTS",
        };
      }
      case "stray": {
        const stray = { blockId: newHash(), height: last?.height ?? 0n };
        return { call: (blocks) => blocks.createBlock({ block: blockInit(stray) }), reason: "BLOCK_NOT_LINKED" };
      }
      default: {
        const block = this.pick(operation_.at);
        return block && this.planStep(operation_, block);
      }
    }
  }

  planStep(step: Exclude<Operation, { kind: "create" | "fork" | "repeat" | "stray" }>, block: Known) {
    const { blockId } = block;
    const to = (status: Known["status"], ...before: Known["status"][]): string | undefined => {
      if (!before.includes(block.status)) return "ILLEGAL_TRANSITION";
      block.status = status;
      return undefined;
    };
    switch (step.kind) {
      case "orphan": {
        const call = (blocks: Blocks) => blocks.markBlockOrphaned({ blockId });
        const isLast = this.chain.at(-1) === block;
        if (!isLast && ["PENDING", "VALIDATING", "CONFIRMED"].includes(block.status)) {
          return { call, reason: "BLOCK_HAS_SUCCESSOR" };
        }
        const reason = to("ORPHANED", "PENDING", "VALIDATING", "CONFIRMED");
        if (reason === undefined) this.orphaned.push(...this.chain.splice(-1));
        return { call, reason };
      }
      case "finalize":
        return { call: (blocks: Blocks) => blocks.finalizeBlock({ blockId }), reason: to("FINALIZED", "CONFIRMED") };
      case "validate": {
        const status = BlockStatus.VALIDATING;
        return {
          call: (blocks: Blocks) => blocks.updateBlockStatus({ blockId, status }),
          reason: to("VALIDATING", "PENDING"),
        };
      }
      case "confirm": {
        const status = BlockStatus.CONFIRMED;
        return {
          call: (blocks: Blocks) => blocks.updateBlockStatus({ blockId, status }),
          reason: to("CONFIRMED", "VALIDATING"),
        };
      }
      case "count": {
        const { confirmations } = step;
        const isOrphaned = block.status === "ORPHANED";
        if (!isOrphaned && confirmations > block.confirmations) block.confirmations = confirmations;
        return {
          call: (blocks: Blocks) => blocks.updateConfirmations({ blockId, confirmations }),
          reason: isOrphaned ? "BLOCK_ORPHANED" : undefined,
        };
      }
    }
  }
}

async function chainOf(blocks: Blocks): Promise<Block[]> {
  const stream = await allOf(blocks.streamBlocks({ endHeight: 9999n }));
  return stream.flatMap(({ block }) => (block === undefined ? [] : [block]));
}

test("any sequence of calls does to the chain what it does to a plain list", { timeout: within(600_000) }, async () => {
  await onEachLane(500, fc.array(operation, { minLength: 1, maxLength: 5 }), async (db, operations) => {
    const blocks = handlersOn(db);
    const model = new Model();
    for (const each of operations) {
      const planned = model.plan(each);
      if (planned === undefined) continue;
      const { call, reason } = planned;
      if (reason === undefined) await call(blocks);
      else expect(await refusalOf(call(blocks))).toMatchObject({ reason });
    }
    const chain = await chainOf(blocks);
    expect(chain).toMatchObject(
      model.chain.map(({ status, ...known }, index) => ({
        ...known,
        status: BlockStatus[status],
        finalized: status === "FINALIZED",
        ...(index + 1 < model.chain.length && { nextBlockHash: model.chain[index + 1]?.blockId }),
      })),
    );
    expect(chain).toHaveLength(model.chain.length);
    expect(chain.at(-1)?.nextBlockHash).toBeUndefined();
    const { height } = await blocks.getChainHeight({});
    expect(height).toBe(model.chain.at(-1)?.height);
    expect((await blocks.countBlocks({ filter: { status: BlockStatus.ORPHANED } })).count).toBe(
      BigInt(model.orphaned.length),
    );
  });
});

/** Writes of the chain that two documents need. */
const writes = ["insertOne", "updateOne", "findOneAndUpdate"] as const;

/** The handlers of a process that dies at its write with this number, before the write or right after it. */
function dyingAt(db: Db, number: number, when: "before" | "after"): Blocks {
  const dying = client.db(db.databaseName, { useBigInt64: true });
  const open = dying.collection.bind(dying);
  let count = 0;
  const died = () => new Error("The process has died");
  const method = (collection: Collection, name: (typeof writes)[number]) => {
    const write = collection[name].bind(collection) as (...args: unknown[]) => Promise<unknown>;
    return async (...args: unknown[]) => {
      count += 1;
      if (count > number || (count === number && when === "before")) throw died();
      const result = await write(...args);
      if (count === number) throw died();
      return result;
    };
  };
  dying.collection = ((name: string) => {
    const collection = open(name);
    for (const write of writes) Object.defineProperty(collection, write, { value: method(collection, write) });
    return collection;
  }) as Db["collection"];
  return handlersOn(dying);
}

const death = fc.record({
  number: fc.integer({ min: 1, max: 4 }),
  when: fc.constantFrom("before" as const, "after" as const),
  kind: fc.constantFrom("create" as const, "orphan" as const),
});

test(
  "wherever processes die between two writes, the chain stays whole and grows on",
  { timeout: within(600_000) },
  async () => {
    const steps = fc.array(fc.record({ death, others: fc.constantFrom("create", "orphan", "nothing") }), {
      minLength: 1,
      maxLength: 4,
    });
    await onEachLane(64, steps, async (db, deaths) => {
      const blocks = handlersOn(db);
      await blocks.createBlock({ block: blockInit() });
      for (const { death: fatal, others } of deaths) {
        const last = (await chainOf(blocks)).at(-1);
        const dying = dyingAt(db, fatal.number, fatal.when);
        const init = blockInit(last);
        const call =
          fatal.kind === "orphan" && last !== undefined
            ? dying.markBlockOrphaned({ blockId: last.blockId })
            : dying.createBlock({ block: init });
        // It may have ended before it could die.
        await call.catch(() => {});
        await expectWhole(blocks);
        // Others find what it has left, and go on: each of these may find that the dead one came first.
        const tip = (await chainOf(blocks)).at(-1);
        if (others === "create")
          await succeedsOr(blocks.createBlock({ block: blockInit(tip) }), "BLOCK_ALREADY_EXISTS");
        if (others === "orphan" && tip !== undefined) {
          await succeedsOr(blocks.markBlockOrphaned({ blockId: tip.blockId }), "BLOCK_HAS_SUCCESSOR");
        }
        await expectWhole(blocks);
      }
      // Whatever was left is settled by the next block, or by the one after that where the dead had created one.
      for (const _ of [1, 2]) {
        const block = blockInit((await chainOf(blocks)).at(-1));
        await succeedsOr(blocks.createBlock({ block }), "BLOCK_ALREADY_EXISTS");
      }
      const chain = await expectWhole(blocks);
      expect(chain.map(({ nextBlockHash }) => nextBlockHash)).toEqual([
        ...chain.slice(1).map(({ blockId }) => blockId),
        undefined,
      ]);
      expect(await db.collection("blocks").countDocuments({ _next: { $exists: true } })).toBe(0);
    });
  },
);

async function succeedsOr(call: Promise<unknown>, reason: string): Promise<void> {
  const refusal = await refusalOf(call).catch(() => undefined); // it succeeded
  if (refusal !== undefined) expect(refusal).toMatchObject({ reason });
}

/** Each block of the chain is upon the one before, whatever is half done. */
async function expectWhole(blocks: Blocks): Promise<Block[]> {
  const chain = await chainOf(blocks);
  for (const [index, { height, previousHash }] of chain.entries()) {
    expect(height).toBe(BigInt(index));
    expect(previousHash).toBe(chain[index - 1]?.blockId ?? "0".repeat(64));
  }
  if (chain.length > 0) {
    const outcome = (await allOf(blocks.verifyChain({}))).at(-1);
    expect(outcome).toMatchObject({ done: true, verifiedHeight: BigInt(chain.length - 1) });
    expect(outcome?.brokenLink).toBeUndefined();
  }
  return chain;
}

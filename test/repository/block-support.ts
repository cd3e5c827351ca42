import { createHash, randomBytes } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { Client } from "@connectrpc/connect";
import type { Db } from "mongodb";

import type { Block, BlockSchema } from "../../gen/lucid/repository/v1/block_pb.ts";
import { BlockService } from "../../gen/lucid/repository/v1/block_service_pb.ts";
import { type TestApp, testApp } from "../support/app.ts";
import { uniqueName } from "../support/stores.ts";

export type Blocks = Client<typeof BlockService>;

/** The service with a chain of its own. */
export interface BlocksApp extends AsyncDisposable {
  readonly app: TestApp;
  /** Clients of both listeners. */
  readonly blocks: Blocks;
  readonly overHttp: Blocks;
  readonly db: Db;
  /** What the service has logged as its own fault. */
  readonly faults: readonly string[];
  /** Empties the chain. */
  clear(): Promise<void>;
}

export async function blocksApp(environment: Readonly<Record<string, string>> = {}): Promise<BlocksApp> {
  const name = uniqueName("blocks");
  const faults: string[] = [];
  const logTo = (line: string) => {
    if ((JSON.parse(line) as { level: number }).level >= 50) faults.push(line); // pino's error
  };
  const app = await testApp({ ...environment, LUCID_MONGODB_DATABASE: name }, { logTo });
  const db = app.mongodb.db(name, { useBigInt64: true });
  return {
    app,
    blocks: app.client(BlockService),
    overHttp: app.http(BlockService),
    db,
    faults,
    async clear() {
      await db.collection("blocks").deleteMany({});
      await db.collection("block_internals").deleteMany({});
    },
    async [Symbol.asyncDispose]() {
      await db.dropDatabase();
      await app[Symbol.asyncDispose]();
    },
  };
}

export const noHash = "0".repeat(64);

/** A hash that no other test has. */
export function newHash(): string {
  return randomBytes(32).toString("hex");
}

/** The hash of a text. */
export function hashOf(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

const firstMs = Date.UTC(2026, 0, 1);

/** What a new block needs to go upon another; without one it is the first. Blocks are a minute apart. */
export function blockInit(
  previous?: Pick<Block, "blockId" | "height">,
  init: MessageInitShape<typeof BlockSchema> = {},
): MessageInitShape<typeof BlockSchema> {
  const height = previous === undefined ? 0n : previous.height + 1n;
  return {
    blockId: newHash(),
    height,
    previousHash: previous?.blockId ?? noHash,
    merkleRoot: hashOf("transactions"),
    timestamp: timestampFromDate(new Date(firstMs + Number(height) * 60_000)),
    ...init,
  };
}

export async function newBlock(
  blocks: Blocks,
  previous?: Pick<Block, "blockId" | "height">,
  init: MessageInitShape<typeof BlockSchema> = {},
): Promise<Block> {
  const { block } = await blocks.createBlock({ block: blockInit(previous, init) });
  if (block === undefined) throw new Error("No block was returned");
  return block;
}

/** Creates so many blocks upon one another. */
export async function newChain(blocks: Blocks, count: number): Promise<readonly Block[]> {
  const made: Block[] = [];
  for (let index = 0; index < count; index++) made.push(await newBlock(blocks, made.at(-1)));
  return made;
}

/** Everything that a stream sends. */
export async function allOf<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const message of stream) found.push(message);
  return found;
}

import type { MessageInitShape } from "@bufbuild/protobuf";
import { afterAll, beforeAll, expect, test } from "vitest";

import type { Block, BlockSchema } from "../../gen/lucid/repository/v1/block_pb.ts";
import { BlockService } from "../../gen/lucid/repository/v1/block_service_pb.ts";
import {
  allOf,
  type Blocks,
  type BlocksApp,
  blockInit,
  blocksApp,
  newChain,
  newHash,
  noHash,
} from "./block-support.ts";
import { bad, long, noToken, type Refusal, unknown, untried } from "./refusals.ts";
import { refusalOf } from "./support.ts";

const nothing = newHash();
const missing = { code: "NotFound", reason: "BLOCK_NOT_FOUND", metadata: { block_id: nothing } };

type Init = MessageInitShape<typeof BlockSchema>;

/** Creates the block after the last one, but for what is given. */
function create(init: Init) {
  return (blocks: Blocks, { last }: Made) => blocks.createBlock({ block: blockInit(last, init) });
}

interface Made {
  readonly first: Block;
  readonly last: Block;
}

/** What each rpc refuses, tried on a chain of two blocks. */
const refusals: readonly Refusal<(blocks: Blocks, made: Made) => Promise<unknown>>[] = [
  ["createBlock: nothing", (blocks) => blocks.createBlock({}), bad("block")],
  [
    "createBlock: an empty block",
    (blocks) => blocks.createBlock({ block: {} }),
    bad("block.block_id", "block.previous_hash", "block.merkle_root", "block.timestamp"),
  ],
  ["createBlock: a short hash", create({ blockId: "ab" }), bad("block.block_id")],
  ["createBlock: a hash in capitals", create({ blockId: "AB".repeat(32) }), bad("block.block_id")],
  ["createBlock: a hash with a line after it", create({ blockId: `${newHash()}\n` }), bad("block.block_id")],
  ["createBlock: a megabyte of hash", create({ blockId: "a".repeat(1_000_000) }), bad("block.block_id")],
  ["createBlock: no hash at all", create({ blockId: noHash }), bad("block.block_id")],
  ["createBlock: a negative height", create({ height: -1n }), bad("block.height")],
  ["createBlock: a negative version", create({ version: -1 }), bad("block.version")],
  ["createBlock: an operator as previous hash", create({ previousHash: '{"$ne":""}' }), bad("block.previous_hash")],
  ["createBlock: zeros above height 0", create({ previousHash: noHash }), bad("block.previous_hash")],
  ["createBlock: a hash before height 0", create({ height: 0n }), bad("block.previous_hash")],
  ["createBlock: no Merkle root", create({ merkleRoot: "" }), bad("block.merkle_root")],
  ["createBlock: a time in no year", create({ timestamp: { seconds: 253_402_300_800n } }), bad("block.timestamp")],
  ["createBlock: a negative nonce", create({ nonce: -1n }), bad("block.nonce")],
  ["createBlock: a negative difficulty", create({ difficulty: -0.5 }), bad("block.difficulty")],
  ["createBlock: an infinite difficulty", create({ difficulty: Number.POSITIVE_INFINITY }), bad("block.difficulty")],
  ["createBlock: no transaction", create({ transactions: [nothing, "x"] }), bad("block.transactions[1]")],
  ["createBlock: a transaction twice", create({ transactions: [nothing, nothing] }), bad("block.transactions")],
  [
    "createBlock: too many transactions",
    create({ transactions: Array.from({ length: 20_001 }, (_, index) => index.toString(16).padStart(64, "0")) }),
    bad("block.transactions"),
  ],
  [
    "createBlock: an empty anchor",
    create({ sessionAnchors: [{}] }),
    bad(
      "block.session_anchors[0].session_id",
      "block.session_anchors[0].user_id",
      "block.session_anchors[0].merkle_root",
    ),
  ],
  [
    "createBlock: too many anchors",
    create({
      sessionAnchors: Array.from({ length: 2001 }, () => ({
        sessionId: "s",
        userId: "u",
        merkleRoot: nothing,
      })),
    }),
    bad("block.session_anchors"),
  ],
  [
    "createBlock: negative sizes",
    create({
      sessionAnchors: [
        { sessionId: "s", userId: long, merkleRoot: nothing, chunkCount: -1n, totalSizeBytes: -1n },
      ] as never,
    }),
    bad(
      "block.session_anchors[0].user_id",
      "block.session_anchors[0].chunk_count",
      "block.session_anchors[0].total_size_bytes",
    ),
  ],
  [
    "createBlock: no consensus",
    create({ consensusInfo: { algorithm: 9 as never, validatorCount: -1, voteCount: -1 } }),
    bad("block.consensus_info.algorithm", "block.consensus_info.validator_count", "block.consensus_info.vote_count"),
  ],
  [
    "createBlock: an infinite score",
    create({ consensusInfo: { pootScores: { n: Number.POSITIVE_INFINITY } } }),
    bad('block.consensus_info.poot_scores["n"]'),
  ],
  [
    "createBlock: a node without a name",
    create({ consensusInfo: { pootScores: { "": 1 } } }),
    bad('block.consensus_info.poot_scores[""]'),
  ],
  ["createBlock: a negative size", create({ sizeBytes: -1n }), bad("block.size_bytes")],
  ["createBlock: no number as work", create({ chainWork: "0x1" }), bad("block.chain_work")],
  ["createBlock: a null character in metadata", create({ metadata: { "a\0": 1 } }), bad("block.metadata")],
  ["createBlock: a megabyte of metadata", create({ metadata: { a: "x".repeat(1_000_000) } }), bad("block.metadata")],
  [
    "createBlock: large internals",
    (blocks, { last }) =>
      blocks.createBlock({
        block: blockInit(last),
        internals: { rawHeader: new Uint8Array(65_537), validatedBy: [""], processingTimeMs: -1n },
      }),
    bad("internals.raw_header", "internals.validated_by[0]", "internals.processing_time_ms"),
  ],
  [
    "createBlock: long internals",
    (blocks, { last }) =>
      blocks.createBlock({
        block: blockInit(last),
        internals: {
          rawTransactions: new Uint8Array(2_097_153),
          validationSignatures: { n: "x".repeat(1025) },
          propagationTimeMs: -1n,
        },
      }),
    bad("internals.raw_transactions", 'internals.validation_signatures["n"]', "internals.propagation_time_ms"),
  ],
  [
    "createBlock: a time that no calendar has",
    (blocks, { last }) =>
      blocks.createBlock({
        block: blockInit(last),
        internals: { importedAt: { seconds: 2n ** 63n - 1n } },
        requestId: "00000000-0000-4000-8000-000000000001",
      }),
    bad("internals.imported_at"),
  ],
  [
    "createBlock: request_id",
    (blocks, { last }) => blocks.createBlock({ block: blockInit(last), requestId: "1" }),
    bad("request_id"),
  ],
  ["getBlock: no id", (blocks) => blocks.getBlock({}), bad("block_id")],
  ["getBlock: a pattern as id", (blocks) => blocks.getBlock({ blockId: ".*" }), bad("block_id")],
  ["getBlock: nothing there", (blocks) => blocks.getBlock({ blockId: nothing }), missing],
  ["getBlockByHeight: below 0", (blocks) => blocks.getBlockByHeight({ height: -1n }), bad("height")],
  [
    "getBlockByHeight: beyond the chain",
    (blocks) => blocks.getBlockByHeight({ height: 2n }),
    { ...missing, metadata: { height: "2" } },
  ],
  ["streamBlocks: below 0", (blocks) => allOf(blocks.streamBlocks({ startHeight: -1n })), bad("start_height")],
  ["streamBlocks: end below 0", (blocks) => allOf(blocks.streamBlocks({ endHeight: -1n })), bad("end_height")],
  ["streamBlocks: backwards", (blocks) => allOf(blocks.streamBlocks({ startHeight: 1n })), bad("end_height")],
  ["streamBlocks: too many", (blocks) => allOf(blocks.streamBlocks({ endHeight: 10_000n })), bad("end_height")],
  ["listBlocks: negative size", (blocks) => blocks.listBlocks({ pageSize: -1 }), bad("page_size")],
  ["listBlocks: made-up token", (blocks) => blocks.listBlocks({ pageToken: "abc" }), noToken],
  ["listBlocks: long token", (blocks) => blocks.listBlocks({ pageToken: "x".repeat(2049) }), bad("page_token")],
  ["listBlocks: order without an index", (blocks) => blocks.listBlocks({ orderBy: "nonce" }), bad("order_by")],
  ["listBlocks: order by what waits", (blocks) => blocks.listBlocks({ orderBy: "_next" }), bad("order_by")],
  ["listBlocks: long order", (blocks) => blocks.listBlocks({ orderBy: "x".repeat(101) }), bad("order_by")],
  [
    "listBlocks: times and another order",
    (blocks) => blocks.listBlocks({ orderBy: "height", filter: { timestampFrom: { seconds: 1n } } }),
    bad("order_by"),
  ],
  ["listBlocks: unknown status", (blocks) => blocks.listBlocks({ filter: { status: unknown } }), bad("filter.status")],
  ["listBlockSummaries: negative size", (blocks) => blocks.listBlockSummaries({ pageSize: -1 }), bad("page_size")],
  ["listBlockSummaries: made-up token", (blocks) => blocks.listBlockSummaries({ pageToken: "abc" }), noToken],
  ["listBlocksBySession: nothing", (blocks) => blocks.listBlocksBySession({}), bad("session_id")],
  ["listBlocksBySession: long id", (blocks) => blocks.listBlocksBySession({ sessionId: long }), bad("session_id")],
  [
    "listBlocksBySession: negative size",
    (blocks) => blocks.listBlocksBySession({ sessionId: "s", pageSize: -1 }),
    bad("page_size"),
  ],
  [
    "listBlocksBySession: made-up token",
    (blocks) => blocks.listBlocksBySession({ sessionId: "s", pageToken: "abc" }),
    noToken,
  ],
  [
    "countBlocks: unknown status",
    (blocks) => blocks.countBlocks({ filter: { status: unknown } }),
    bad("filter.status"),
  ],
  ["searchBlocks: nothing", (blocks) => blocks.searchBlocks({}), bad("query")],
  ["searchBlocks: a pattern", (blocks) => blocks.searchBlocks({ query: "a|b" }), bad("query")],
  ["searchBlocks: too long", (blocks) => blocks.searchBlocks({ query: "a".repeat(65) }), bad("query")],
  ["searchBlocks: negative size", (blocks) => blocks.searchBlocks({ query: "a", pageSize: -1 }), bad("page_size")],
  ["searchBlocks: made-up token", (blocks) => blocks.searchBlocks({ query: "a", pageToken: "abc" }), noToken],
  ["updateConfirmations: no id", (blocks) => blocks.updateConfirmations({}), bad("block_id")],
  [
    "updateConfirmations: fewer than none",
    (blocks, { first: { blockId } }) => blocks.updateConfirmations({ blockId, confirmations: -1n }),
    bad("confirmations"),
  ],
  ["updateConfirmations: nothing there", (blocks) => blocks.updateConfirmations({ blockId: nothing }), missing],
  ["updateBlockStatus: nothing", (blocks) => blocks.updateBlockStatus({}), bad("block_id", "status")],
  ...([0, 1, 4, 5, 99] as const).map((status): (typeof refusals)[number] => [
    `updateBlockStatus: to status ${status}`,
    (blocks, { first: { blockId } }) => blocks.updateBlockStatus({ blockId, status: status as never }),
    bad("status"),
  ]),
  ["updateBlockStatus: nothing there", (blocks) => blocks.updateBlockStatus({ blockId: nothing, status: 2 }), missing],
  ["finalizeBlock: no id", (blocks) => blocks.finalizeBlock({}), bad("block_id")],
  ["finalizeBlock: nothing there", (blocks) => blocks.finalizeBlock({ blockId: nothing }), missing],
  ["markBlockOrphaned: no id", (blocks) => blocks.markBlockOrphaned({}), bad("block_id")],
  ["markBlockOrphaned: nothing there", (blocks) => blocks.markBlockOrphaned({ blockId: nothing }), missing],
  ["getBlockStatistics: below 0", (blocks) => blocks.getBlockStatistics({ startHeight: -1n }), bad("start_height")],
  ["getBlockStatistics: end below 0", (blocks) => blocks.getBlockStatistics({ endHeight: -1n }), bad("end_height")],
  [
    "getBlockStatistics: backwards",
    (blocks) => blocks.getBlockStatistics({ startHeight: 2n, endHeight: 1n }),
    bad("end_height"),
  ],
  ["verifyChain: below 0", (blocks) => allOf(blocks.verifyChain({ startHeight: -1n })), bad("start_height")],
  ["verifyChain: end below 0", (blocks) => allOf(blocks.verifyChain({ endHeight: -1n })), bad("end_height")],
  [
    "verifyChain: backwards",
    (blocks) => allOf(blocks.verifyChain({ startHeight: 2n, endHeight: 1n })),
    bad("end_height"),
  ],
  [
    "verifyChain: progress before 0",
    (blocks) => allOf(blocks.verifyChain({ progressBlocks: -1 })),
    bad("progress_blocks"),
  ],
  [
    "verifyChain: progress never",
    (blocks) => allOf(blocks.verifyChain({ progressBlocks: 1_000_001 })),
    bad("progress_blocks"),
  ],
  [
    "watchBlocks: long token",
    (blocks) => allOf(blocks.watchBlocks({ resumeToken: "x".repeat(2049) })),
    bad("resume_token"),
  ],
  [
    "watchBlocks: made-up token",
    (blocks) => allOf(blocks.watchBlocks({ resumeToken: "abc" })),
    { code: "InvalidArgument", reason: "WATCH_TOKEN_INVALID", fields: ["resume_token"] },
  ],
  [
    "watchBlocks: long interval",
    (blocks) => allOf(blocks.watchBlocks({ checkpointInterval: { seconds: 301n } })),
    bad("checkpoint_interval"),
  ],
  ["watchBlocks: below all", (blocks) => allOf(blocks.watchBlocks({ afterHeight: -2n })), bad("after_height")],
];

let service: BlocksApp;
let made: Made;
beforeAll(async () => {
  service = await blocksApp();
  const [first, last] = (await newChain(service.blocks, 2)) as [Block, Block];
  made = { first, last };
});
afterAll(() => service[Symbol.asyncDispose]());

test("every rpc that takes anything is refused something here", () => {
  expect(untried(BlockService, refusals)).toEqual([]);
});

test.for(refusals)("%s", async ([, call, expected]) => {
  expect(await refusalOf(call(service.blocks, made))).toMatchObject(expected);
  expect(await refusalOf(call(service.overHttp, made))).toMatchObject(expected);
});

test("what was refused has changed nothing", async () => {
  const { blocks, db } = service;
  expect((await blocks.getLatestBlock({})).block).toStrictEqual(made.last);
  expect(await db.collection("blocks").countDocuments({})).toBe(2);
  expect(await db.collection("block_internals").countDocuments({})).toBe(0);
});

test("a refusal of more than headers hold names the first fields that break a rule", async () => {
  const many = { sessionAnchors: Array.from({ length: 1000 }, () => ({})) };
  const longKey = { consensusInfo: { pootScores: { ["x".repeat(100_000)]: 1 } } };
  for (const blocks of [service.blocks, service.overHttp]) {
    const refused = await refusalOf(create(many)(blocks, made));
    expect(refused).toMatchObject({ code: "InvalidArgument", reason: "BAD_REQUEST" });
    expect(refused.fields).toHaveLength(10);
    expect(refused.fields[0]).toBe("block.session_anchors[0].session_id");
    const { fields } = await refusalOf(create(longKey)(blocks, made));
    expect(fields[0]).toMatch(/^block\.consensus_info\.poot_scores\["x+…$/);
  }
});

import { performance } from "node:perf_hooks";

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import type { Collection } from "mongodb";

import type { VerifyChainRequest, VerifyChainResponseSchema } from "../../gen/lucid/repository/v1/block_service_pb.ts";
import { cancellable } from "../schema/call-options.ts";
import { chainEmpty, noHash } from "./block-document.ts";
import { inChain } from "./block-query.ts";
import { type Break, diagnosed, type Link, linkFields as projection } from "./block-repair.ts";

/** Blocks that are read at once. */
const batchSize = 1000;

/** Longest time without telling how far it has come, in milliseconds. */
const quietMs = 1000;

type Progress = MessageInitShape<typeof VerifyChainResponseSchema>;

/**
 * Checks the links of a chain from one height to another and yields how far it has come, the outcome last. Holds one batch of
 * blocks at a time.
 *
 * The chain may lose blocks at its end and grow again while it is read, and a reader may then see a block upon one that has
 * left. So a break counts only if it is still there when it is looked at again; otherwise the walk goes back to the last block
 * that cannot have changed, which is a finalised one.
 */
export async function* verifyChain(
  blocks: Collection,
  { startHeight, endHeight, progressBlocks }: VerifyChainRequest,
  context: HandlerContext,
): AsyncGenerator<Progress> {
  const every = progressBlocks === 0 ? 1000n : BigInt(progressBlocks);
  const one = async (height: object, direction: 1 | -1): Promise<Link | null> =>
    blocks.findOne<Link>({ height, ...inChain }, { projection, sort: { height: direction }, ...cancellable(context) });

  const tip = await one({ $gte: 0n }, -1);
  if (tip === null) throw chainEmpty();
  const end = endHeight === undefined || endHeight > BigInt(tip.height) ? BigInt(tip.height) : endHeight;
  const base = { endHeight: end };
  const upTo = (height: bigint) => (height < startHeight ? base : { ...base, verifiedHeight: height });
  let sentMs = performance.now();

  for (let from = startHeight; ;) {
    // The block before is read too, since the first link names it.
    let expectedHeight = from === 0n ? 0n : from - 1n;
    let expectedHash = from === 0n ? noHash : undefined;
    let broken: Break | undefined;
    let safe = from;
    const range = { $gte: expectedHeight, $lte: end };
    const cursor = blocks.find<Link>(
      { height: range, ...inChain },
      { projection, sort: { height: 1 }, batchSize, ...cancellable(context) },
    );
    for await (const found of cursor) {
      if (BigInt(found.height) !== expectedHeight || found.previous_hash !== (expectedHash ?? found.previous_hash)) {
        broken = { expectedHeight, expectedHash, found };
        break;
      }
      if (found.status === "FINALIZED") safe = expectedHeight + 1n;
      const isDue = (expectedHeight - startHeight + 1n) % every === 0n || performance.now() - sentMs >= quietMs;
      if (isDue && expectedHeight >= startHeight && expectedHeight < end) {
        yield upTo(expectedHeight);
        sentMs = performance.now();
      }
      [expectedHeight, expectedHash] = [expectedHeight + 1n, found.block_id];
    }
    if (broken === undefined && expectedHeight <= end) {
      // Blocks have left since the call began, or one is missing below another beyond the end.
      const found = await one({ $gte: expectedHeight }, 1);
      if (found !== null && BigInt(found.height) !== expectedHeight) broken = { expectedHeight, expectedHash, found };
      if (found !== null && broken === undefined) {
        from = safe;
        continue;
      }
    }
    if (broken === undefined) {
      yield { ...upTo(expectedHeight - 1n), done: true };
      return;
    }
    if (await isStillThere(broken)) {
      yield { ...upTo(broken.expectedHeight - 1n), done: true, brokenLink: await diagnosed(broken, blocks, context) };
      return;
    }
    from = safe;
  }

  async function isStillThere({ expectedHeight, expectedHash, found }: Break): Promise<boolean> {
    const height = BigInt(found.height);
    if (height < expectedHeight)
      return (await blocks.countDocuments({ height, ...inChain }, { limit: 2, ...cancellable(context) })) > 1;
    const isFirst = expectedHash === undefined || expectedHeight === 0n;
    const before = isFirst ? undefined : await one({ $eq: expectedHeight - 1n }, 1);
    const next = await one({ $gte: expectedHeight }, 1);
    return (isFirst || before?.block_id === expectedHash) && next?.block_id === found.block_id;
  }
}

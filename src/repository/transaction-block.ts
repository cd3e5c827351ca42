import type { ConnectError, HandlerContext } from "@connectrpc/connect";
import type { Db } from "mongodb";

import { TransactionStatus, TransactionStatusSchema } from "../../gen/lucid/repository/v1/transaction_pb.ts";
import type {
  AssignTransactionToBlockRequest,
  UpdateTransactionStatusRequest,
} from "../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { fail, isReason } from "../errors.ts";
import { deadlineOf } from "../schema/call-options.ts";
import { type Entity, type Step } from "../schema/entity.ts";
import { literal } from "../schema/expressions.ts";
import { stateMachine } from "../schema/state-machine.ts";

const { PENDING, IN_MEMPOOL, CONFIRMED, FINALIZED, FAILED, REJECTED } = TransactionStatus;

const terminal = { [FINALIZED]: [], [FAILED]: [], [REJECTED]: [] };

/** The steps that callers ask for by name. */
const forward = stateMachine(TransactionStatusSchema, {
  [PENDING]: [IN_MEMPOOL, FAILED, REJECTED],
  [IN_MEMPOOL]: [CONFIRMED, FAILED, REJECTED],
  [CONFIRMED]: [FINALIZED, FAILED],
  ...terminal,
});

/** The step out of a block that was orphaned. */
const returning = stateMachine(TransactionStatusSchema, { [CONFIRMED]: [IN_MEMPOOL], ...terminal });

/** The step into a block: what was told to be confirmed before its block was known may still be assigned. */
const assigning = stateMachine(TransactionStatusSchema, {
  [PENDING]: [CONFIRMED],
  [IN_MEMPOOL]: [CONFIRMED],
  [CONFIRMED]: [CONFIRMED],
  ...terminal,
});

/** What this file reads of a transaction. */
interface Place {
  readonly block_id?: string;
  readonly transaction_index?: number;
}

/** What this file reads of a block, which another service writes. */
interface StoredBlock {
  readonly height: bigint;
  readonly status: string;
}

/** How transactions go from status to status, which depends on the blocks they are in. */
export interface TransactionSteps {
  assign(request: AssignTransactionToBlockRequest, context: HandlerContext): Promise<Uint8Array>;
  update(request: UpdateTransactionStatusRequest, context: HandlerContext): Promise<Uint8Array>;
}

/**
 * A block and a transaction are two documents, and no write here needs both: ORPHANED and FINALIZED are the ends of a block, so
 * that what was read of one that is either still holds when the transaction is written. A block that is orphaned between the two
 * leaves its new transaction as it leaves its others, free to be assigned again.
 */
export function transactionSteps(transactions: Entity, db: Db): TransactionSteps {
  const blocks = db.collection("blocks");

  const blockOf = async (blockId: string, context: HandlerContext) => {
    const projection = { _id: 0, height: 1, status: 1 };
    return blocks.findOne<StoredBlock>({ block_id: blockId }, { projection, ...deadlineOf(context) });
  };

  const placeOf = async (transactionId: string, context: HandlerContext): Promise<Place> => {
    const projection = { _id: 0, block_id: 1, transaction_index: 1 };
    const options = { projection, ...deadlineOf(context) };
    const found = await transactions.collection.findOne<Place>(transactions.live(transactionId), options);
    if (found === null) throw transactions.notFound({ transaction_id: transactionId });
    return found;
  };

  const isOrphaned = async (blockId: string, context: HandlerContext): Promise<boolean> =>
    (await blockOf(blockId, context))?.status === "ORPHANED";

  /** Takes a step into a block from the place where the transaction is; null where it has left that place. */
  const stepInto = async (
    { transactionId, blockId, transactionIndex = 0 }: AssignTransactionToBlockRequest,
    { height }: StoredBlock,
    from: string | undefined,
    context: HandlerContext,
  ) => {
    const now = new Date();
    const place = { block_id: literal(blockId), block_height: height, transaction_index: transactionIndex };
    // Who has said before that it is confirmed has said when; in an orphaned block it was not.
    const confirmed = { confirmed_at: from === undefined ? { $ifNull: ["$confirmed_at", now] } : now };
    const set = { ...place, ...confirmed, included_at: now, confirmations: 0n };
    try {
      const filter = { block_id: from ?? null };
      return await transactions.step(transactionId, { machine: assigning, to: CONFIRMED, set, filter, now }, context);
    } catch (error) {
      // Only the index is unique of all that the step writes.
      if (!isReason(error, "TRANSACTION_ALREADY_EXISTS")) throw error;
      throw fail("TRANSACTION_INDEX_TAKEN", `Another transaction of the block ${blockId} has that index`, {
        metadata: { block_id: blockId, transaction_index: String(transactionIndex) },
        fields: [{ field: "transaction_index", description: "is taken" }],
        cause: error,
      });
    }
  };

  /** Takes a step to a status; null where the transaction has left the block that it was seen in. */
  const stepTo = async (
    { transactionId, status, etag, errorMessage }: UpdateTransactionStatusRequest,
    context: HandlerContext,
  ) => {
    const now = new Date();
    const take = (step: Omit<Step, "machine" | "to">, machine = forward) =>
      transactions.step(transactionId, { machine, to: status, etag, now, ...step }, context);
    switch (status) {
      case IN_MEMPOOL: {
        const { block_id: from } = await placeOf(transactionId, context);
        if (from === undefined || !(await isOrphaned(from, context))) return take({});
        return take({ set: nowhere, filter: { block_id: from } }, returning);
      }
      case CONFIRMED:
        return take({ set: { confirmed_at: now } });
      case FINALIZED:
        return finalize(transactionId, take, now, context);
      default:
        return take({ set: { error_message: literal(errorMessage) } });
    }
  };

  const finalize = async (
    transactionId: string,
    take: (step: Pick<Step, "set" | "filter">) => Promise<Uint8Array | null>,
    now: Date,
    context: HandlerContext,
  ) => {
    const { block_id: blockId } = await placeOf(transactionId, context);
    const block = blockId === undefined ? null : await blockOf(blockId, context);
    const isFinal = block?.status === "FINALIZED";
    // Without such a block the step finds nothing, and fails only where the status does not allow it either.
    const found = await take({ set: { finalized_at: now }, filter: { block_id: isFinal ? blockId : { $in: [] } } });
    if (found !== null || isFinal) return found;
    throw blockId === undefined ? notInBlock(transactionId) : blockNotFinalized(blockId);
  };

  return {
    async assign(request, context) {
      const { transactionId, blockId, transactionIndex = 0 } = request;
      const block = await blockOf(blockId, context);
      if (block === null) throw blockNotFound(blockId);
      if (block.status === "ORPHANED") throw blockOrphaned(blockId);
      return settled(transactionId, async () => {
        const { block_id: from, transaction_index: index } = await placeOf(transactionId, context);
        if (from === blockId && index === transactionIndex) {
          return transactions.find(transactions.live(transactionId), context);
        }
        if (from !== undefined && (from === blockId || !(await isOrphaned(from, context)))) {
          throw alreadyAssigned(transactionId, from, index);
        }
        return stepInto(request, block, from, context);
      });
    },

    update: (request, context) => settled(request.transactionId, () => stepTo(request, context)),
  };
}

/** What a transaction has of a block that it has left. */
const nowhere = {
  block_id: "$$REMOVE",
  block_height: "$$REMOVE",
  transaction_index: "$$REMOVE",
  included_at: "$$REMOVE",
  confirmed_at: "$$REMOVE",
  confirmations: 0n,
};

/** Moves that others make between a look and a step; each of them must have found an orphaned block. */
const mostMoves = 5;

/** Tries a step until the transaction is where it was seen to be. */
async function settled(transactionId: string, step: () => Promise<Uint8Array | null>): Promise<Uint8Array> {
  for (let move = 0; move < mostMoves; move++) {
    const found = await step();
    if (found !== null) return found;
  }
  throw fail("STORE_CONFLICT", `Others move the transaction ${transactionId} at the same time`);
}

/** Why a transaction that must be in a block is not. */
export function notInBlock(transactionId: string, blockId?: string): ConnectError {
  const where = blockId === undefined ? "in no block" : `not in the block ${blockId}`;
  return fail("TRANSACTION_NOT_IN_BLOCK", `The transaction ${transactionId} is ${where}`, {
    metadata: { transaction_id: transactionId, ...(blockId !== undefined && { block_id: blockId }) },
  });
}

function alreadyAssigned(transactionId: string, blockId: string, index: number | undefined): ConnectError {
  return fail("TRANSACTION_ALREADY_ASSIGNED", `The transaction ${transactionId} is at another place already`, {
    metadata: { transaction_id: transactionId, block_id: blockId, transaction_index: String(index) },
  });
}

function blockNotFound(blockId: string): ConnectError {
  return fail("BLOCK_NOT_FOUND", `There is no block with block_id ${blockId}`, {
    metadata: { block_id: blockId },
    resource: { type: "lucid.repository.v1.Block", name: blockId },
  });
}

function blockOrphaned(blockId: string): ConnectError {
  return fail("BLOCK_ORPHANED", `The block ${blockId} is orphaned`, { metadata: { block_id: blockId } });
}

function blockNotFinalized(blockId: string): ConnectError {
  return fail("BLOCK_NOT_FINALIZED", `The block ${blockId} is not finalized`, { metadata: { block_id: blockId } });
}

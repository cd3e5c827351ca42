import { randomUUID } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";

import type { TransactionInternalsSchema } from "../../gen/lucid/repository/v1/transaction_internals_pb.ts";
import {
  type Transaction,
  type TransactionSchema,
  TransactionType,
} from "../../gen/lucid/repository/v1/transaction_pb.ts";
import type { TransactionService } from "../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { bad, deep, megabyte, type Refusal, unknown } from "./refusals.ts";
import { tronAddress } from "./support.ts";
import { hash, transactionInit } from "./transaction-support.ts";

type Transactions = Client<typeof TransactionService>;

/** What the calls are about: a transaction that waits, one that is in a block, that block and an orphaned one. */
export interface MadeTransactions {
  readonly waiting: Transaction;
  readonly placed: Transaction;
  readonly blockId: string;
  readonly orphanId: string;
}

export type TransactionCall = (transactions: Transactions, made: MadeTransactions) => Promise<unknown>;

export const nobody = "0".repeat(64);
export const at = (seconds: bigint) => ({ seconds, nanos: 0 });

function create(init: MessageInitShape<typeof TransactionSchema>) {
  return (transactions: Transactions) => transactions.createTransaction({ transaction: transactionInit(init) });
}

function keep(internals: MessageInitShape<typeof TransactionInternalsSchema>) {
  return (transactions: Transactions) => transactions.createTransaction({ transaction: transactionInit(), internals });
}

const anchor = {
  sessionId: "s",
  userId: "u",
  merkleRoot: hash("root"),
  chunkCount: 1n,
  sessionCreatedAt: at(1n),
  manifestHash: hash("manifest"),
};

function anchored(wrong: Partial<typeof anchor & { totalSizeBytes: bigint }>) {
  const transactionType = TransactionType.SESSION_ANCHOR;
  return create({ transactionType, payload: { case: "sessionAnchor", value: { ...anchor, ...wrong } } });
}

const update = { stateType: "t", stateKey: "k", newValue: { kind: { case: "boolValue", value: true } } } as const;

function updated(wrong: object) {
  const transactionType = TransactionType.STATE_UPDATE;
  return create({ transactionType, payload: { case: "stateUpdate", value: { ...update, ...wrong } } });
}

function governed(wrong: object) {
  const transactionType = TransactionType.GOVERNANCE;
  return create({ transactionType, payload: { case: "governance", value: { action: "vote", ...wrong } } });
}

const json = (value: Record<string, never> | object) => ({ payload: { case: "json", value: value as never } }) as const;

/** What CreateTransaction refuses. */
export const creationRefusals: readonly Refusal<TransactionCall>[] = [
  ["createTransaction: nothing", (transactions) => transactions.createTransaction({}), bad("transaction")],
  ["createTransaction: no hash", create({ transactionId: "" }), bad("transaction.transaction_id")],
  ["createTransaction: upper case", create({ transactionId: "A".repeat(64) }), bad("transaction.transaction_id")],
  [
    "createTransaction: line after the hash",
    create({ transactionId: `${nobody}\n` }),
    bad("transaction.transaction_id"),
  ],
  ["createTransaction: no type", create({ transactionType: 0 }), bad("transaction.transaction_type")],
  ["createTransaction: unknown type", create({ transactionType: unknown }), bad("transaction.transaction_type")],
  ["createTransaction: no payload", create({ payload: { case: undefined } }), bad("transaction.payload")],
  ...(["SESSION_ANCHOR", "STATE_UPDATE", "GOVERNANCE"] as const).map(
    (name) =>
      [
        `createTransaction: json as ${name}`,
        create({ transactionType: TransactionType[name] }),
        bad("transaction"),
      ] as const,
  ),
  [
    "createTransaction: a vote as SYSTEM",
    create({ payload: { case: "governance", value: { action: "vote" } } }),
    bad("transaction"),
  ],
  ["createTransaction: no address", create({ fromAddress: "$where" }), bad("transaction.from_address")],
  ["createTransaction: empty address", create({ toAddress: "" }), bad("transaction.to_address")],
  ["createTransaction: null in an address", create({ toAddress: "a\0b" }), bad("transaction.to_address")],
  ["createTransaction: a megabyte of address", create({ toAddress: megabyte }), bad("transaction.to_address")],
  [
    "createTransaction: addresses with wrong checksums",
    create({
      fromAddress: `T${"1".repeat(33)}`,
      toAddress: tronAddress().toLowerCase().replace("t", "T").replaceAll(/[l0]/g, "2"),
    }),
    bad("transaction.from_address", "transaction.to_address"),
  ],
  ["createTransaction: negative size", create({ sizeBytes: -1n }), bad("transaction.size_bytes")],
  ["createTransaction: negative fee", create({ fee: -1n }), bad("transaction.fee")],
  ["createTransaction: no time", create({ submittedAt: at(2n ** 62n) }), bad("transaction.submitted_at")],
  ["createTransaction: no signature", create({ signature: "xyz" }), bad("transaction.signature")],
  ["createTransaction: no key", create({ publicKey: "" }), bad("transaction.public_key")],
  ["createTransaction: null character in json", create(json({ "a\0": 1 })), bad("transaction.json")],
  ["createTransaction: deep json", create(json(deep(31))), bad("transaction.json")],
  ["createTransaction: a megabyte of json", create(json({ a: megabyte })), bad("transaction.json")],
  ["createTransaction: a megabyte of metadata", create({ metadata: { a: megabyte } }), bad("transaction.metadata")],
  [
    "createTransaction: anchor of no session",
    anchored({ sessionId: "" }),
    bad("transaction.session_anchor.session_id"),
  ],
  ["createTransaction: anchor of no user", anchored({ userId: "" }), bad("transaction.session_anchor.user_id")],
  [
    "createTransaction: anchor without root",
    anchored({ merkleRoot: "" }),
    bad("transaction.session_anchor.merkle_root"),
  ],
  [
    "createTransaction: anchor of no chunk",
    anchored({ chunkCount: 0n }),
    bad("transaction.session_anchor.chunk_count"),
  ],
  [
    "createTransaction: anchor of negative size",
    anchored({ totalSizeBytes: -1n }),
    bad("transaction.session_anchor.total_size_bytes"),
  ],
  [
    "createTransaction: anchor without time",
    create({
      transactionType: TransactionType.SESSION_ANCHOR,
      payload: { case: "sessionAnchor", value: { ...anchor, sessionCreatedAt: undefined as never } },
    }),
    bad("transaction.session_anchor.session_created_at"),
  ],
  [
    "createTransaction: anchor without manifest",
    anchored({ manifestHash: "0x" }),
    bad("transaction.session_anchor.manifest_hash"),
  ],
  ["createTransaction: no kind of state", updated({ stateType: "" }), bad("transaction.state_update.state_type")],
  ["createTransaction: no key of state", updated({ stateKey: "" }), bad("transaction.state_update.state_key")],
  ["createTransaction: no new value", updated({ newValue: undefined }), bad("transaction.state_update.new_value")],
  ["createTransaction: long reason", updated({ reason: "x".repeat(1001) }), bad("transaction.state_update.reason")],
  [
    "createTransaction: a megabyte of state",
    updated({ newValue: { kind: { case: "stringValue", value: megabyte } } }),
    bad("transaction.state_update"),
  ],
  ["createTransaction: no action", governed({ action: "" }), bad("transaction.governance.action")],
  ["createTransaction: empty proposal", governed({ proposalId: "" }), bad("transaction.governance.proposal_id")],
  ["createTransaction: empty voter", governed({ voterId: "" }), bad("transaction.governance.voter_id")],
  ["createTransaction: long vote", governed({ vote: "x".repeat(51) }), bad("transaction.governance.vote")],
  ["createTransaction: deep parameters", governed({ parameters: deep(31) }), bad("transaction.governance.parameters")],
  [
    "createTransaction: raw bytes",
    keep({ rawTransaction: new Uint8Array(2 ** 20 + 1) }),
    bad("internals.raw_transaction"),
  ],
  ["createTransaction: long error", keep({ validationError: "x".repeat(1001) }), bad("internals.validation_error")],
  ["createTransaction: processed in no time", keep({ processingTimeMs: -1n }), bad("internals.processing_time_ms")],
  ["createTransaction: verified in no time", keep({ verificationTimeMs: -1n }), bad("internals.verification_time_ms")],
  ["createTransaction: sent in no time", keep({ propagationTimeMs: -1n }), bad("internals.propagation_time_ms")],
  ["createTransaction: sent twice", keep({ propagatedToNodes: ["a", "a"] }), bad("internals.propagated_to_nodes")],
  ["createTransaction: sent to nobody", keep({ propagatedToNodes: [""] }), bad("internals.propagated_to_nodes[0]")],
  [
    "createTransaction: request_id",
    (transactions) => transactions.createTransaction({ transaction: transactionInit(), requestId: "1" }),
    bad("request_id"),
  ],
  [
    "createTransaction: taken hash",
    (transactions, { waiting: { transactionId } }) =>
      transactions.createTransaction({ transaction: transactionInit({ transactionId }), requestId: randomUUID() }),
    {
      code: "AlreadyExists",
      reason: "TRANSACTION_ALREADY_EXISTS",
      metadata: { field: "transaction_id" },
      fields: ["transaction.transaction_id"],
    },
  ],
];

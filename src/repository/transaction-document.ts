import { timestampNow } from "@bufbuild/protobuf/wkt";
import type { Document } from "bson";

import {
  type Transaction,
  TransactionSchema,
  TransactionStatus,
} from "../../gen/lucid/repository/v1/transaction_pb.ts";
import {
  type CreateTransactionRequest,
  CreateTransactionRequestSchema,
} from "../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { codecFor } from "../schema/codec.ts";
import { type NewDocument, requestMark } from "../schema/create-once.ts";
import { onlyWritable } from "../schema/field-mask.ts";
import { badRequest, tooLarge, type WrongField } from "../schema/refusals.ts";
import { isTronAddress } from "../schema/tron-address.ts";

const codec = codecFor(TransactionSchema);

const payloads = TransactionSchema.oneofs.flatMap(({ fields }) => fields.map(({ name }) => name));

/** The document of a request that keeps the rules of its proto. Fails with `BAD_REQUEST` for what only code can see. */
export function newTransaction(request: CreateTransactionRequest): NewDocument {
  const { transaction: sent, internals } = request;
  if (sent === undefined) throw badRequest({ field: "transaction", description: "must be set" });
  const transaction = onlyWritable(TransactionSchema, sent);
  transaction.status = TransactionStatus.PENDING;
  transaction.submittedAt ??= timestampNow();
  if (transaction.sizeBytes === 0n) transaction.sizeBytes = BigInt(internals?.rawTransaction.length ?? 0);
  return { document: documentOf(transaction), mark: requestMark(CreateTransactionRequestSchema, request) };
}

function documentOf(transaction: Transaction): Document {
  const document = codec.encode(transaction, "transaction");
  const wrong: WrongField[] = [
    ...wrongAddress("transaction.from_address", transaction.fromAddress),
    ...wrongAddress("transaction.to_address", transaction.toAddress),
    ...[...payloads, "metadata"].flatMap((name) => tooLarge(`transaction.${name}`, document[name] as Document)),
  ];
  if (wrong.length > 0) throw badRequest(...wrong);
  return document;
}

/** Parts of the chain have names of their own; what has the form of a TRON address was meant to be one. */
export function wrongAddress(field: string, address: string | undefined): readonly WrongField[] {
  if (address === undefined || !/^T[1-9A-HJ-NP-Za-km-z]{33}$/.test(address) || isTronAddress(address)) return [];
  return [{ field, description: "must have a valid checksum where it has the form of a TRON address" }];
}

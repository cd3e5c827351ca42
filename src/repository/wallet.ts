import { randomUUIDv7 } from "node:crypto";

import type { DescMessage } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";

import { UserSchema } from "../../gen/lucid/repository/v1/user_pb.ts";
import {
  WalletBalanceSchema,
  WalletSchema,
  WalletStatus,
  WalletStatusSchema,
  WalletTransactionSchema,
  WalletTransactionStatusSchema,
} from "../../gen/lucid/repository/v1/wallet_pb.ts";
import { WalletSecretsSchema } from "../../gen/lucid/repository/v1/wallet_secrets_pb.ts";
import * as rpc from "../../gen/lucid/repository/v1/wallet_service_pb.ts";
import { fail } from "../errors.ts";
import { cancellable, deadlineOf } from "../schema/call-options.ts";
import { codecFor } from "../schema/codec.ts";
import { collectionOf } from "../schema/collection.ts";
import { requestMark } from "../schema/create-once.ts";
import { listDocuments } from "../schema/document-list.ts";
import { documentResponse } from "../schema/document-response.ts";
import { entity } from "../schema/entity.ts";
import { mostLong, sum } from "../schema/expressions.ts";
import { onlyWritable } from "../schema/field-mask.ts";
import { timeRange } from "../schema/filters.ts";
import { filteredBy } from "../schema/list-query.ts";
import { badRequest } from "../schema/refusals.ts";
import { stateMachine } from "../schema/state-machine.ts";
import { storedName } from "../schema/stored-field.ts";
import { isTronAddress } from "../schema/tron-address.ts";
import type { Repositories } from "./collections.ts";
import { hardwareDevices } from "./hardware-device.ts";
import { secretsOf } from "./secrets.ts";
import { walletDocument } from "./wallet-document.ts";
import { makePrimary } from "./wallet-primary.ts";
import { walletStatistics } from "./wallet-statistics.ts";

const codec = codecFor(WalletSchema);

const created = documentResponse(rpc.CreateWalletResponseSchema, "wallet");
const got = documentResponse(rpc.GetWalletResponseSchema, "wallet");
const gotByAddress = documentResponse(rpc.GetWalletByTronAddressResponseSchema, "wallet");
const gotPrimary = documentResponse(rpc.GetPrimaryWalletResponseSchema, "wallet");
const listed = documentResponse(rpc.ListWalletsResponseSchema, "wallets");
const updated = documentResponse(rpc.UpdateWalletResponseSchema, "wallet");
const stepped = documentResponse(rpc.UpdateWalletStatusResponseSchema, "wallet");
const madePrimary = documentResponse(rpc.SetPrimaryWalletResponseSchema, "wallet");
const verified = documentResponse(rpc.MarkWalletVerifiedResponseSchema, "wallet");
const used = documentResponse(rpc.RecordWalletUseResponseSchema, "wallet");
const deleted = documentResponse(rpc.DeleteWalletResponseSchema, "wallet");
const undeleted = documentResponse(rpc.UndeleteWalletResponseSchema, "wallet");
const balances = documentResponse(rpc.ListWalletBalancesResponseSchema, "balances");
const transactions = documentResponse(rpc.ListWalletTransactionsResponseSchema, "transactions");

const { ACTIVE, INACTIVE, LOCKED, COMPROMISED } = WalletStatus;

const machine = stateMachine(WalletStatusSchema, {
  [ACTIVE]: [INACTIVE, LOCKED, COMPROMISED],
  [INACTIVE]: [ACTIVE, LOCKED, COMPROMISED],
  [LOCKED]: [ACTIVE, INACTIVE, COMPROMISED],
  [COMPROMISED]: [],
});

/** Keeps wallets, their secrets and the devices that hold keys. */
export function walletService(options: Repositories): ServiceImpl<typeof rpc.WalletService> {
  const { db, collections, pageTokens } = options;
  const wallets = entity({
    db,
    schema: WalletSchema,
    id: "wallet_id",
    name: "wallet",
    reasons: { notFound: "WALLET_NOT_FOUND", alreadyExists: "WALLET_ALREADY_EXISTS", notDeleted: "WALLET_NOT_DELETED" },
    ready: collections.ready,
    pageTokens,
  });
  const secrets = secretsOf(db, {
    schema: WalletSecretsSchema,
    name: "secrets",
    resource: "Wallet",
    refusals: ["WALLET_ALREADY_EXISTS"],
  });
  const users = db.collection(collectionOf(UserSchema).name);
  const shown = (schema: DescMessage, id: string) => ({
    collection: db.collection(collectionOf(schema).name),
    schema,
    id,
    pageTokens,
  });
  const shownBalances = shown(WalletBalanceSchema, "asset");
  const shownTransactions = shown(WalletTransactionSchema, "wallet_transaction_id");

  return {
    ...hardwareDevices(options),

    async createWallet(request, context) {
      const { userId } = request;
      const wallet = onlyWritable(WalletSchema, request.wallet ?? codec.decode({}));
      wallet.walletId = randomUUIDv7();
      wallet.userId = userId;
      wallet.status = ACTIVE;
      const document = walletDocument(wallet, () => true);
      const mark = requestMark(rpc.CreateWalletRequestSchema, request);
      // Its user may have gone since.
      const first = await wallets.createdBefore(mark, context);
      if (first !== null) return created([first]);
      await collections.ready(WalletSecretsSchema);
      const user = await users.findOne(
        { user_id: userId, deleted_at: null },
        { projection: { _id: 1 }, ...deadlineOf(context) },
      );
      if (user === null) {
        throw fail("USER_NOT_FOUND", `There is no user with user_id ${userId}`, {
          metadata: { user_id: userId },
          resource: { type: UserSchema.typeName, name: userId },
        });
      }
      const owner = { wallet_id: wallet.walletId, user_id: userId };
      const insert = () => wallets.insert(document, context, mark);
      const { document: stored } = await secrets.create(owner, request.secrets, insert, context);
      return created([stored]);
    },

    async getWallet({ walletId, showDeleted }, context) {
      const filter = showDeleted ? { wallet_id: walletId } : wallets.live(walletId);
      return got([await wallets.get(filter, context, { wallet_id: walletId })]);
    },

    async getWalletByTronAddress({ tronAddress }, context) {
      if (!isTronAddress(tronAddress)) {
        throw badRequest({ field: "tron_address", description: "must be a TRON address with a valid checksum" });
      }
      const filter = { tron_address: tronAddress, deleted_at: null };
      return gotByAddress([await wallets.get(filter, context, { tron_address: tronAddress })]);
    },

    async getPrimaryWallet({ userId }, context) {
      const filter = { user_id: userId, is_primary: true, deleted_at: null };
      return gotPrimary([await wallets.get(filter, context, { user_id: userId })]);
    },

    async listWallets(request, context) {
      const { userId = "", status = 0, createdFrom, createdBefore } = request.filter ?? {};
      const equal = {
        ...(userId !== "" && { user_id: userId }),
        ...(status !== 0 && { status: storedName(WalletStatusSchema, status) }),
      };
      const query = filteredBy(equal, { createdFrom, createdBefore, showDeleted: request.showDeleted });
      const { documents, nextPageToken } = await wallets.list(
        {
          ...query,
          fallback: "created_at desc",
          schema: rpc.ListWalletsRequestSchema,
          request,
        },
        context,
      );
      return listed(documents, { nextPageToken });
    },

    async updateWallet({ wallet: sent, updateMask, etag }, context) {
      if (sent === undefined) throw badRequest({ field: "wallet", description: "must be set" });
      const found = await wallets.update(
        { schema: WalletSchema, message: sent, mask: updateMask, etag, id: sent.walletId },
        (isChanged) => walletDocument(onlyWritable(WalletSchema, sent), isChanged),
        context,
        (set, isChanged) => {
          if (!isChanged("tron_address")) return;
          // Who has proven one address has not proven another.
          const isSame = { $eq: ["$tron_address", set["tron_address"]] };
          set["is_verified"] = { $and: [isSame, "$is_verified"] };
          set["verified_at"] = { $cond: [isSame, "$verified_at", "$$REMOVE"] };
        },
      );
      return updated([found]);
    },

    async updateWalletStatus({ walletId, status, etag }, context) {
      const found = await wallets.step(walletId, { machine, to: status, etag }, context);
      if (found !== null) return stepped([found]);
      throw fail("STORE_CONFLICT", `Others take the wallet ${walletId} from status to status at the same time`, {
        metadata: { wallet_id: walletId },
      });
    },

    async setPrimaryWallet({ walletId }, context) {
      return madePrimary([await makePrimary(wallets, walletId, context)]);
    },

    async markWalletVerified({ walletId, tronAddress }, context) {
      const now = new Date();
      const provenAt = { $cond: ["$is_verified", { $ifNull: ["$verified_at", now] }, now] };
      const stages = [{ $set: { is_verified: true, verified_at: provenAt } }];
      const filter = { deleted_at: null, ...(tronAddress !== "" && { tron_address: tronAddress }) };
      const found = await wallets.change(walletId, { stages, filter, now }, context);
      if (found !== null) return verified([found]);
      await wallets.get(wallets.live(walletId), context, { wallet_id: walletId });
      throw fail("WALLET_ADDRESS_CHANGED", `The wallet ${walletId} has another address than ${tronAddress}`, {
        metadata: { wallet_id: walletId, tron_address: tronAddress },
      });
    },

    async recordWalletUse({ walletId, count = 1 }, context) {
      const total = { $min: [mostLong, sum("$transaction_count", BigInt(count))] };
      return used([await wallets.set(walletId, { transaction_count: total, last_used: new Date() }, context)]);
    },

    async setWalletSecrets({ walletId, secrets: sent }, context) {
      await collections.ready(WalletSecretsSchema);
      const wallet = codec.decode(await wallets.get(wallets.live(walletId), context, { wallet_id: walletId }));
      await secrets.replace({ wallet_id: walletId, user_id: wallet.userId }, sent, context);
      return {};
    },

    async deleteWallet({ walletId, etag, validateOnly }, context) {
      const set = { is_primary: false };
      return deleted([await wallets.delete(walletId, { etag, validateOnly, set }, context)]);
    },

    async undeleteWallet({ walletId, etag }, context) {
      return undeleted([await wallets.undelete(walletId, { etag }, context)]);
    },

    async listWalletBalances(request, context) {
      await wallets.get(wallets.live(request.walletId), context, { wallet_id: request.walletId });
      const { documents, nextPageToken } = await listDocuments(
        shownBalances,
        {
          filter: { wallet_id: request.walletId },
          restrictions: { equal: ["wallet_id"] },
          fallback: "asset",
          schema: rpc.ListWalletBalancesRequestSchema,
          request,
        },
        context,
      );
      return balances(documents, { nextPageToken });
    },

    async listWalletTransactions(request, context) {
      const { walletId, status, occurredFrom, occurredBefore } = request;
      await wallets.get(wallets.live(walletId), context, { wallet_id: walletId });
      const equal = {
        wallet_id: walletId,
        ...(status !== 0 && { status: storedName(WalletTransactionStatusSchema, status) }),
      };
      const range = timeRange(occurredFrom, occurredBefore);
      const { documents, nextPageToken } = await listDocuments(
        shownTransactions,
        {
          filter: { ...equal, ...(range !== undefined && { occurred_at: range }) },
          restrictions: { equal: Object.keys(equal), ...(range !== undefined && { range: "occurred_at" }) },
          fallback: "occurred_at desc",
          schema: rpc.ListWalletTransactionsRequestSchema,
          request,
        },
        context,
      );
      return transactions(documents, { nextPageToken });
    },

    async getWalletStatistics({ userId }, context) {
      return { statistics: await walletStatistics(wallets.collection, userId, cancellable(context)) };
    },
  };
}

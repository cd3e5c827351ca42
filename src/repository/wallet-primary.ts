import type { HandlerContext } from "@connectrpc/connect";
import { deserialize } from "bson";

import { fail, isReason, reasonOf } from "../errors.ts";
import { deadlineOf } from "../schema/call-options.ts";
import type { Entity } from "../schema/entity.ts";

/** Most tries of one call against others that make another wallet of the same user primary at the same time. */
const mostAttempts = 200;

/**
 * Makes a wallet the primary one of its user. Two writes, each a statement of its own: first the old one lets go, then the new
 * one takes. That a user never has two is held by a unique index over live primary wallets, and by nothing here; whoever comes
 * up against it was overtaken by another call, which has thereby ended, and tries again. A failure in between leaves none primary,
 * which the next call puts right, since it starts from what is stored.
 */
export async function makePrimary(wallets: Entity, walletId: string, context: HandlerContext): Promise<Uint8Array> {
  const wallet = await wallets.get(wallets.live(walletId), context, { wallet_id: walletId });
  const { user_id: userId, is_primary: isPrimary } = deserialize(wallet) as { user_id: string; is_primary?: boolean };
  const livePrimary = { is_primary: true, deleted_at: null };
  const others = { user_id: userId, ...livePrimary, wallet_id: { $ne: walletId } };
  for (let attempt = 1; ; attempt++) {
    // More than one only where the index is missing, because older data did not allow it.
    const olds = await wallets.collection
      .find<{ wallet_id: string }>(others, { projection: { wallet_id: 1 }, limit: 100, ...deadlineOf(context) })
      .toArray();
    if (isPrimary === true && olds.length === 0) return wallet;
    for (const { wallet_id: old } of olds) {
      await wallets.change(old, { stages: [{ $set: { is_primary: false } }], filter: livePrimary }, context);
    }
    try {
      const found = await wallets.change(walletId, { stages: [{ $set: { is_primary: true } }] }, context);
      if (found === null) throw wallets.notFound({ wallet_id: walletId });
      return found;
    } catch (error) {
      if (!isReason(error, "WALLET_ALREADY_EXISTS") || reasonOf(error)?.metadata["field"] !== "user_id") throw error;
      if (attempt === mostAttempts) {
        throw fail("STORE_CONFLICT", "Other calls make other wallets of the user primary at the same time", {
          metadata: { wallet_id: walletId, user_id: userId },
          retryAfterMs: 1000,
          cause: error,
        });
      }
    }
  }
}

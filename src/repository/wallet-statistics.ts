import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { Collection } from "mongodb";

import type { WalletStatisticsSchema } from "../../gen/lucid/repository/v1/wallet_service_pb.ts";

/** How many wallets there are of one status and type. */
interface Group {
  readonly _id: { readonly status?: string; readonly type?: string };
  readonly wallets: bigint | number;
  readonly verified: bigint | number;
  readonly primary: bigint | number;
  readonly uses: bigint | number;
  readonly lastUsed: Date | null;
}

/** Computes statistics of a user's live wallets, or of all, in the store. */
export async function walletStatistics(
  wallets: Collection,
  userId: string,
  options: { maxTimeMS?: number; signal: AbortSignal },
): Promise<MessageInitShape<typeof WalletStatisticsSchema>> {
  const match = { $match: { deleted_at: null, ...(userId !== "" && { user_id: userId }) } };
  const read = { ...options, useBigInt64: true };
  const count = (field: string) => ({ $sum: { $cond: [{ $eq: [field, true] }, 1n, 0n] } });
  const groups = await wallets
    .aggregate<Group>(
      [
        match,
        {
          $group: {
            _id: { status: "$status", type: "$wallet_type" },
            wallets: { $sum: 1n },
            verified: count("$is_verified"),
            primary: count("$is_primary"),
            uses: { $sum: { $ifNull: ["$transaction_count", 0n] } },
            lastUsed: { $max: "$last_used" },
          },
        },
      ],
      read,
    )
    .toArray();
  const [owners] = await wallets
    .aggregate<{ users: bigint }>(
      [match, { $group: { _id: "$user_id" } }, { $group: { _id: null, users: { $sum: 1n } } }],
      read,
    )
    .toArray();
  const total = (value: (group: Group) => bigint | number) =>
    groups.reduce((sum, group) => sum + BigInt(value(group)), 0n);
  const totals = (name: (group: Group) => string | undefined) => {
    const found: Record<string, bigint> = {};
    for (const group of groups) {
      const key = name(group);
      if (key !== undefined) found[key] = (found[key] ?? 0n) + BigInt(group.wallets);
    }
    return found;
  };
  const used = groups.map(({ lastUsed }) => lastUsed?.getTime()).filter((time) => time !== undefined);
  return {
    totalWallets: total(({ wallets: number }) => number),
    walletsByStatus: totals(({ _id }) => _id.status),
    walletsByType: totals(({ _id }) => _id.type),
    verifiedWallets: total(({ verified }) => verified),
    primaryWallets: total(({ primary }) => primary),
    users: BigInt(owners?.users ?? 0),
    totalTransactionCount: total(({ uses }) => uses),
    ...(used.length > 0 && { lastUsed: timestampFromDate(new Date(Math.max(...used))) }),
  };
}

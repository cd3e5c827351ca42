import { createClient, createRouterTransport } from "@connectrpc/connect";
import fc from "fast-check";
import { MongoClient, type ChangeStreamDocument, type Db } from "mongodb";
import { afterAll, beforeAll, expect, test } from "vitest";

import { type Wallet, WalletStatus, WalletStatusSchema } from "../../gen/lucid/repository/v1/wallet_pb.ts";
import { WalletService } from "../../gen/lucid/repository/v1/wallet_service_pb.ts";
import { walletService } from "../../src/repository/wallet.ts";
import { pageTokens } from "../../src/schema/page-tokens.ts";
import { storedName } from "../../src/schema/stored-field.ts";
import { begunIn, runs, within } from "../support/sequences.ts";
import { storeAddresses } from "../support/stores.ts";
import { newUser, patientCollections, refusalOf } from "./support.ts";
import { newWallet, type WalletsApp, walletsApp } from "./wallet-support.ts";

let service: WalletsApp;
beforeAll(async () => {
  service = await walletsApp();
});
afterAll(() => service[Symbol.asyncDispose]());

const many = (count: number) => Array.from({ length: count }, (_, index) => index);

/** Follows every write of wallets, in the order of the store. */
async function watchPrimaries(db: Db) {
  const stream = db.collection("wallets").watch([], { fullDocument: "updateLookup" });
  await stream.tryNext(); // it is open now
  return {
    /** Most live primary wallets of one user that there ever were, and how often one became primary. */
    async end(): Promise<{ most: number; changes: number }> {
      const marker = {
        wallet_id: "marker",
        user_id: "marker",
        tron_address: "marker",
        status: "ACTIVE",
        created_at: new Date(),
      };
      await db.collection("wallets").insertOne(marker);
      const primaries = new Map<string, Set<string>>();
      const owners = new Map<string, string>();
      let [most, changes] = [0, 0];
      for (;;) {
        const event = (await stream.next()) as ChangeStreamDocument<{
          wallet_id: string;
          user_id: string;
          is_primary?: boolean;
        }>;
        if (event.operationType === "insert") {
          if (event.fullDocument.wallet_id === "marker") break;
          owners.set(String(event.documentKey._id), event.fullDocument.user_id);
        }
        if (event.operationType !== "update") continue;
        const id = String(event.documentKey._id);
        const owner = owners.get(id) ?? "older";
        const set = primaries.get(owner) ?? new Set();
        const value = event.updateDescription.updatedFields?.is_primary;
        if (value === true) {
          set.add(id);
          changes++;
        } else if (value === false) {
          set.delete(id);
        }
        primaries.set(owner, set);
        most = Math.max(most, set.size);
      }
      await stream.close();
      await db.collection("wallets").deleteOne({ wallet_id: "marker" });
      return { most, changes };
    },
  };
}

async function primariesOf(userId: string): Promise<string[]> {
  const found = await service.db.collection("wallets").find({ user_id: userId, is_primary: true }).toArray();
  return found.map(({ wallet_id: id }) => id as string);
}

test("of 50 callers that make 5 wallets primary all succeed, and the user never has two", async () => {
  const { wallets, overHttp, db } = service;
  const watch = await watchPrimaries(db);
  const { userId } = await newUser(service.users);
  const made = await Promise.all(many(5).map(() => newWallet(service, {}, userId)));
  const calls = await Promise.all(
    many(50).map(async (index) => {
      const walletId = made[index % 5]?.walletId ?? "";
      return (await (index % 2 === 0 ? wallets : overHttp).setPrimaryWallet({ walletId })).wallet;
    }),
  );
  for (const wallet of calls) expect(wallet?.isPrimary).toBe(true);
  const primaries = await primariesOf(userId);
  expect(primaries).toHaveLength(1);
  expect((await wallets.getPrimaryWallet({ userId })).wallet?.walletId).toBe(primaries[0]);
  const { most, changes } = await watch.end();
  expect(most).toBe(1);
  expect(changes).toBeGreaterThanOrEqual(5);
});

test("deletions beside switches leave at most one primary, which is live", async () => {
  const { wallets, db } = service;
  const watch = await watchPrimaries(db);
  const { userId } = await newUser(service.users);
  const made = await Promise.all(many(6).map(() => newWallet(service, {}, userId)));
  await Promise.allSettled(
    many(48).map(async (index) => {
      const walletId = made[index % 6]?.walletId ?? "";
      if (index % 8 === 7) await wallets.deleteWallet({ walletId });
      else if (index % 8 === 3) await wallets.undeleteWallet({ walletId });
      else await wallets.setPrimaryWallet({ walletId });
    }),
  );
  expect((await watch.end()).most).toBe(1);
  const found = await db.collection("wallets").find({ user_id: userId, is_primary: true }).toArray();
  expect(found.length).toBeLessThanOrEqual(1);
  for (const one of found) expect(one["deleted_at"] ?? null).toBeNull();
});

/** The handlers on a real store whose writes of wallets fail as `fails` says: before they are carried out, or after. */
async function failing(fails: () => "before" | "after" | undefined) {
  return around(async (write) => {
    const failure = fails();
    if (failure === "before") throw new Error("The process ended before the write");
    const result = await write();
    if (failure === "after") throw new Error("The process ended after the write");
    return result;
  });
}

/** The handlers on a real store, and what happens around each of their writes of wallets. */
async function around(happens: (write: () => Promise<unknown>) => Promise<unknown>) {
  const client = await MongoClient.connect(storeAddresses().mongodbUri);
  const db = client.db(service.db.databaseName);
  const open = db.collection.bind(db);
  db.collection = ((name: string) => {
    const collection = open(name);
    const write = collection.findOneAndUpdate.bind(collection) as (...args: unknown[]) => Promise<unknown>;
    const value = async (...args: unknown[]) => (name === "wallets" ? happens(() => write(...args)) : write(...args));
    return Object.defineProperty(collection, "findOneAndUpdate", { value });
  }) as Db["collection"];
  const tokens = pageTokens("");
  const handlers = walletService({
    db,
    collections: patientCollections(service.db),
    pageTokens: async () => tokens,
  });
  const wallets = createClient(
    WalletService,
    createRouterTransport(({ service: serve }) => {
      serve(WalletService, handlers);
    }),
  );
  return { wallets, [Symbol.asyncDispose]: () => client.close() };
}

test.for([
  [1, "before", "old"],
  [1, "after", "none"],
  [2, "before", "none"],
  [2, "after", "new"],
] as const)(
  "a switch that ends at write %i, %s it, leaves %s primary, and the next call puts it right",
  async ([at, when, left]) => {
    const { userId } = await newUser(service.users);
    const [old, next] = await Promise.all([newWallet(service, {}, userId), newWallet(service, {}, userId)]);
    await service.wallets.setPrimaryWallet({ walletId: old.walletId });
    let writes = 0;
    await using cut = await failing(() => (++writes === at ? when : undefined));
    await expect(cut.wallets.setPrimaryWallet({ walletId: next.walletId })).rejects.toThrow("internal");
    expect(writes).toBe(at);
    const remaining = { old: [old.walletId], new: [next.walletId], none: [] }[left];
    expect(await primariesOf(userId)).toEqual(remaining);
    for (const { walletId } of [next, old]) {
      expect((await service.wallets.setPrimaryWallet({ walletId })).wallet?.isPrimary).toBe(true);
      expect(await primariesOf(userId)).toEqual([walletId]);
    }
  },
);

test("a wallet that others change at every write is told of as such, and not as one that is not there", async () => {
  const { walletId } = await newWallet(service);
  const others = service.db.collection("wallets");
  const set = async (status: string) => others.updateOne({ wallet_id: walletId }, { $set: { status } });
  await using busy = await around(async (write) => {
    await set("LOCKED");
    const result = await write();
    await set("ACTIVE");
    return result;
  });
  const call = busy.wallets.updateWalletStatus({ walletId, status: WalletStatus.LOCKED });
  expect(await refusalOf(call)).toMatchObject({ code: "Aborted", reason: "STORE_CONFLICT" });
});

test("50 callers of which many fail between the writes never leave two primary", async () => {
  const watch = await watchPrimaries(service.db);
  const { userId } = await newUser(service.users);
  const made = await Promise.all(many(5).map(() => newWallet(service, {}, userId)));
  let writes = 0;
  await using cut = await failing(() => ([undefined, "before", undefined, "after", undefined] as const)[writes++ % 5]);
  const calls = await Promise.allSettled(
    many(50).map((index) => cut.wallets.setPrimaryWallet({ walletId: made[index % 5]?.walletId ?? "" })),
  );
  expect(new Set(calls.map(({ status }) => status)).size).toBe(2);
  expect((await watch.end()).most).toBe(1);
  expect((await primariesOf(userId)).length).toBeLessThanOrEqual(1);
  const walletId = made[0]?.walletId ?? "";
  expect((await service.wallets.setPrimaryWallet({ walletId })).wallet?.isPrimary).toBe(true);
  expect(await primariesOf(userId)).toEqual([walletId]);
});

test("a user that older data gave two primary wallets has one after the next call", async () => {
  const { userId } = await newUser(service.users);
  const made = await Promise.all(many(3).map(() => newWallet(service, {}, userId)));
  const wallets = service.db.collection("wallets");
  await wallets.dropIndex("user_id_1");
  try {
    await wallets.updateMany({ user_id: userId }, { $set: { is_primary: true } });
    const walletId = made[1]?.walletId ?? "";
    await service.wallets.setPrimaryWallet({ walletId });
    expect(await primariesOf(userId)).toEqual([walletId]);
  } finally {
    await wallets.createIndex(
      { user_id: 1 },
      { name: "user_id_1", unique: true, partialFilterExpression: { is_primary: true, deleted_at: null } },
    );
  }
});

/** What a wallet should be. */
interface Model {
  readonly walletId: string;
  status: WalletStatus;
  isPrimary: boolean;
  isVerified: boolean;
  isDeleted: boolean;
}

const { ACTIVE, INACTIVE, LOCKED, COMPROMISED } = WalletStatus;
const nextWallet = fc.nat({ max: 2 });
const step = fc.oneof(
  fc.record({ call: fc.constant("primary" as const), at: nextWallet }),
  fc.record({ call: fc.constant("verify" as const), at: nextWallet }),
  fc.record({ call: fc.constant("delete" as const), at: nextWallet }),
  fc.record({ call: fc.constant("undelete" as const), at: nextWallet }),
  fc.record({
    call: fc.constant("status" as const),
    at: nextWallet,
    to: fc.constantFrom(ACTIVE, INACTIVE, LOCKED, COMPROMISED),
  }),
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** Carries a step out on the model; the reason why the service must refuse it, where it must. */
function expected(wallets: readonly Model[], wallet: Model, taken: Step): string | undefined {
  if (taken.call === "undelete") {
    if (!wallet.isDeleted) return "WALLET_NOT_DELETED";
    wallet.isDeleted = false;
    return undefined;
  }
  if (wallet.isDeleted) return "WALLET_NOT_FOUND";
  switch (taken.call) {
    case "primary":
      for (const other of wallets) other.isPrimary = other === wallet;
      return undefined;
    case "verify":
      wallet.isVerified = true;
      return undefined;
    case "delete":
      Object.assign(wallet, { isDeleted: true, isPrimary: false });
      return undefined;
    case "status":
      if (wallet.status === taken.to || wallet.status === COMPROMISED) return "ILLEGAL_TRANSITION";
      wallet.status = taken.to;
      return undefined;
  }
}

function carryOut({ wallets }: WalletsApp, walletId: string, taken: Step): Promise<{ wallet?: Wallet | undefined }> {
  switch (taken.call) {
    case "primary":
      return wallets.setPrimaryWallet({ walletId });
    case "verify":
      return wallets.markWalletVerified({ walletId });
    case "delete":
      return wallets.deleteWallet({ walletId });
    case "undelete":
      return wallets.undeleteWallet({ walletId });
    case "status":
      return wallets.updateWalletStatus({ walletId, status: taken.to });
  }
}

test("whatever is called in whatever order, wallets are as a plain model says", { timeout: within() }, async () => {
  const owners = await Promise.all(
    many(20).map(async () => {
      const { userId } = await newUser(service.users);
      return { userId, made: await Promise.all(many(3).map(() => newWallet(service, {}, userId))) };
    }),
  );
  /** One sequence on wallets of its own, which start as new ones do. */
  const sequence = async ({ userId, made }: (typeof owners)[number], steps: readonly Step[]) => {
    await service.db.collection("wallets").updateMany(
      { user_id: userId },
      {
        $set: { status: "ACTIVE", is_primary: false, is_verified: false },
        $unset: { deleted_at: 1, verified_at: 1 },
      },
    );
    const model: Model[] = made.map(({ walletId }) => ({
      walletId,
      status: ACTIVE,
      isPrimary: false,
      isVerified: false,
      isDeleted: false,
    }));
    for (const taken of steps) {
      const wallet = model[taken.at];
      if (wallet === undefined) throw new Error("There are three");
      const from = storedName(WalletStatusSchema, wallet.status);
      const reason = expected(model, wallet, taken);
      const call = carryOut(service, wallet.walletId, taken);
      if (reason === undefined) {
        expect((await call).wallet).toMatchObject({
          status: wallet.status,
          isPrimary: wallet.isPrimary,
          isVerified: wallet.isVerified,
        });
      } else {
        expect(await refusalOf(call)).toMatchObject({
          reason,
          ...(taken.call === "status" &&
            reason === "ILLEGAL_TRANSITION" && { metadata: { from, to: storedName(WalletStatusSchema, taken.to) } }),
        });
      }
    }
    const { wallets: stored } = await service.wallets.listWallets({ filter: { userId }, showDeleted: true });
    const byId = new Map(stored.map((wallet) => [wallet.walletId, wallet]));
    for (const { walletId, isDeleted, ...rest } of model) {
      expect(byId.get(walletId)).toMatchObject(rest);
      expect(byId.get(walletId)?.deletedAt !== undefined).toBe(isDeleted);
    }
  };
  const batch = fc.array(fc.array(step, { minLength: 1, maxLength: 6 }), {
    minLength: owners.length,
    maxLength: owners.length,
  });
  await fc.assert(
    fc.asyncProperty(
      batch,
      begunIn(10_000, async (sequences) => {
        await Promise.all(owners.map((owner, at) => sequence(owner, sequences[at] ?? [])));
      }),
    ),
    runs({ numRuns: 15 }, owners.length),
  );
});

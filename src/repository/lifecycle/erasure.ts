import type { Document } from "bson";
import type { Filter } from "mongodb";

import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import { Erasure } from "../../../gen/lucid/options/v1/options_pb.ts";
import { RemovalOutcome } from "../../../gen/lucid/repository/v1/data_lifecycle_service_pb.ts";
import { fail } from "../../errors.ts";
import { sum } from "../../schema/expressions.ts";
import { pause } from "../../stores/waiting.ts";
import { countAll, mark, removeAll, type RemovalWork } from "./remove.ts";
import type { StoredKind } from "./stored-kinds.ts";

/** What stands in the place of a user who is erased. */
const erased = "erased";

/** The collection of users themselves: what finds everything else goes last. */
const usersName = "users";

const limits = { maxTimeMS: 60_000 };
/** Documents that are anonymised together. */
const batchSize = 1000;
/** Wait in milliseconds for the audit log to take up what documents carry, and between two looks at them. */
const heldMs = { most: 120_000, between: 500 };
/** How often everything is looked at. Of who goes on writing for a user that is gone, not even a further look finds all. */
const mostLooks = 5;

/** The documents that name a user at a place; in each of its places, where there are several. */
function filters({ lifecycle }: StoredKind, userId: string): Filter<Document>[] {
  return lifecycle.userFields.map(({ path, typePath }) => ({
    [path]: userId,
    ...(typePath !== "" && { [typePath]: "user" }),
  }));
}

function does(kind: StoredKind, erasure: Erasure): boolean {
  return kind.lifecycle.erasure === erasure;
}

/** Counts what an erasure would remove, anonymise and keep. */
export async function countOfUser(
  kinds: readonly StoredKind[],
  userId: string,
  work: Omit<RemovalWork, "copies" | "stepped">,
): Promise<void> {
  const isPartOnly = (part: StoredKind) => !does(part, Erasure.REMOVE);
  for (const kind of kinds) {
    for (const filter of filters(kind, userId)) {
      if (does(kind, Erasure.REMOVE)) await countAll(kind, filter, work, isPartOnly);
      else await countPlace(kind, filter, work);
    }
    // What is kept is said also where nothing finds it by the user.
    if (does(kind, Erasure.KEEP)) work.tally.add(placeOf(kind), {});
  }
}

async function countPlace(
  kind: StoredKind,
  filter: Filter<Document>,
  { db, tally, signal }: Omit<RemovalWork, "copies" | "stepped">,
): Promise<void> {
  const [path = ""] = Object.keys(filter);
  // Without an index it would read the whole chain only to say a number.
  if (does(kind, Erasure.KEEP) && !kind.indexed.has(path)) return;
  const found = await db.collection(kind.name).countDocuments(filter, { ...limits, signal });
  if (found > 0) tally.add(placeOf(kind), { found });
}

function placeOf(kind: StoredKind) {
  const outcome = does(kind, Erasure.KEEP) ? RemovalOutcome.KEPT : RemovalOutcome.ANONYMISED;
  return { store: Store.MONGODB, name: kind.name, outcome, note: kind.lifecycle.note };
}

/**
 * Removes and anonymises everything that belongs to a user. Each step finds by itself what is left to do, so that a run which
 * ended anywhere is just begun again. The user itself is marked first, so that nothing new comes to it, and goes last.
 */
export async function eraseUser(kinds: readonly StoredKind[], userId: string, work: RemovalWork): Promise<void> {
  const users = kinds.find(({ name }) => name === usersName);
  if (users === undefined) throw new Error("There are no users among what is stored");
  for (const filter of filters(users, userId)) await mark(users, filter, work);
  work.stepped();
  const removed = kinds.filter((kind) => does(kind, Erasure.REMOVE) && kind !== users);
  const anonymised = kinds.filter((kind) => does(kind, Erasure.ANONYMISE));
  await eraseAll({ removed: [...removed, users], anonymised }, userId, work);
  for (const kind of removed) await work.copies.sweep(kind, userId, work.tally, work.signal);
  // Also where the user has been gone for long: what was cached by its id.
  await work.copies.remove(users, [{ user_id: userId }], work.tally, work.signal);
  work.stepped();
}

/**
 * Removes and anonymises until nothing more is found: what was under way when the user was marked may be written after its place
 * was looked at. Waits for what the audit log has not taken up yet.
 */
async function eraseAll(
  { removed, anonymised }: { readonly removed: readonly StoredKind[]; readonly anonymised: readonly StoredKind[] },
  userId: string,
  work: RemovalWork,
): Promise<void> {
  const { tally, signal } = work;
  const until = performance.now() + heldMs.most;
  for (let look = 1; ; look++) {
    tally.forgetHeld();
    const before = tally.doneCount();
    for (const kind of anonymised) {
      for (const filter of filters(kind, userId)) await anonymise(kind, filter, work);
    }
    for (const kind of removed) {
      for (const filter of filters(kind, userId)) await removeAll(kind, filter, work);
    }
    if (tally.heldCount() === 0) {
      if (tally.doneCount() === before || look >= mostLooks) return;
      continue;
    }
    if (performance.now() > until) {
      throw fail("REMOVAL_HELD", "The audit log has not taken up what it is to say of some documents", {
        metadata: { user_id: userId },
        retryAfterMs: 60_000,
      });
    }
    await pause(heldMs.between, signal);
  }
}

async function anonymise(kind: StoredKind, filter: Filter<Document>, work: RemovalWork): Promise<void> {
  const { db, tally, signal, stepped } = work;
  const { personalFields } = kind.lifecycle;
  const [path = ""] = Object.keys(filter);
  const stages: Document[] = [
    { $set: { [path]: erased, ...(kind.hasRevision && { revision: sum("$revision", 1n), updated_at: new Date() }) } },
    ...(personalFields.length > 0 ? [{ $unset: personalFields }] : []),
  ];
  const collection = db.collection(kind.name);
  for (;;) {
    signal.throwIfAborted();
    const found = await collection.find(filter, { projection: { _id: 1 }, limit: batchSize, ...limits }).toArray();
    if (found.length === 0) return;
    const ids = { _id: { $in: found.map(({ _id }) => _id) } };
    const { modifiedCount } = await collection.updateMany({ $and: [filter, ids] }, stages, limits);
    tally.add(placeOf(kind), { done: modifiedCount });
    stepped();
  }
}

import type { ChildProcess } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";

import { Long, ObjectId } from "bson";
import type { Db, Document } from "mongodb";
import { expect, test } from "vitest";

import { type Random, random } from "../../../local/seed/random.ts";
import { cuttable } from "../../jobs/proxy.ts";
import { onEveryServer } from "../../support/search-servers.ts";
import { kill, newSession, newUser, startReplica, syncBed } from "./support.ts";

/** Others by LUCID_TEST_SYNC_SEEDS: `20` for the first twenty, `6-10` for these. */
const [, from = "1", to] = /^(?:(\d+)-)?(\d+)$/.exec(process.env["LUCID_TEST_SYNC_SEEDS"] ?? "2") ?? [];
const seeds = Array.from({ length: Number(to) + 1 - Number(from) }, (_, at) => Number(from) + at);

const leaseMs = 2500;
const steps = 5;

const kinds = [
  { index: "users", collection: "users", id: "user_id", make: newUser },
  { index: "sessions", collection: "sessions", id: "session_id", make: newSession },
] as const;

const names = kinds.map(({ index }) => index);

/** One thing that happens to documents, as the service, a restore or an operator does it. */
async function write(db: Db, pick: Random, gone: Document[]): Promise<void> {
  const kind = kinds[pick.whole(0, kinds.length - 1)] ?? kinds[0];
  const documents = db.collection(kind.collection);
  const [some] = await documents.aggregate([{ $sample: { size: 1 } }]).toArray();
  const what = pick.whole(0, 11);
  if (some === undefined || what < 3) {
    await documents.insertMany(Array.from({ length: 1 + pick.whole(0, 4) }, () => kind.make()));
    return;
  }
  const { _id } = some;
  const next = { revision: { $add: ["$revision", 1] } };
  if (what < 7) {
    await documents.updateOne({ _id }, [{ $set: { ...next, status: `S${pick.whole(0, 999)}` } }]);
  } else if (what === 7) {
    await documents.updateOne({ _id }, [{ $set: { ...next, deleted_at: "$$NOW" } }]);
  } else if (what === 8) {
    await documents.deleteOne({ _id });
    gone.push({ kind, id: some[kind.id] as string });
  } else if (what === 9) {
    // A restore that overwrites.
    await documents.replaceOne({ _id }, kind.make({ _id, [kind.id]: some[kind.id], revision: Long.fromNumber(1) }));
  } else if (what === 10) {
    const last = gone.pop() as { kind: (typeof kinds)[number]; id: string } | undefined;
    if (last === undefined) return;
    // Its id is used again.
    const again = last.kind.make({ _id: new ObjectId(), [last.kind.id]: last.id });
    await db.collection(last.kind.collection).insertOne(again);
  } else {
    // The move of an audit record.
    await documents.updateOne({ _id }, { $unset: { _audit: "" } });
  }
}

onEveryServer((uri) => {
  test.for(seeds)(
    "seed %i: whoever is killed and whatever is cut off or deleted while writers write, both sides are equal at rest",
    async (seed) => {
      await using bed = await syncBed(uri, leaseMs);
      await using wire = await cuttable(uri);
      // Each has a stream of its own: what happens when is the machine's, what is done is not.
      const pick = random("steps", seed);
      const replicas: (ChildProcess | undefined)[] = [];
      await using stack = new AsyncDisposableStack();
      stack.defer(async () => {
        for (const replica of replicas) await kill(replica);
      });
      for (const { collection, make } of kinds) {
        await bed.domain.collection(collection).insertMany(Array.from({ length: 300 }, () => make()));
      }
      replicas.push(
        await startReplica(bed, { searchUri: wire.uri, names, leaseMs }),
        await startReplica(bed, { searchUri: wire.uri, names, leaseMs }),
      );
      const ending = new AbortController();
      const writer = async (number: number): Promise<number> => {
        const gone: Document[] = [];
        const choice = random("writer", number, seed);
        let writes = 0;
        for (; !ending.signal.aborted; writes++) await write(bed.domain, choice, gone);
        return writes;
      };
      const writing = Promise.all([writer(1), writer(2)]);
      stack.defer(async () => {
        ending.abort();
        await writing.catch(() => undefined);
      });
      for (let step = 0; step < steps; step++) {
        await sleep(100 + pick.whole(0, 799));
        const what = pick.whole(0, 3);
        if (what < 2) {
          const at = pick.whole(0, 1);
          await kill(replicas[at]);
          replicas[at] = await startReplica(bed, { searchUri: wire.uri, names, leaseMs });
        } else if (what === 2) {
          wire.cut();
          await sleep(100 + pick.whole(0, 1499));
          wire.mend();
        } else {
          const { index } = kinds[pick.whole(0, kinds.length - 1)] ?? kinds[0];
          const { indices } = bed.search.client;
          for (const name of Object.keys(await indices.get({ index: `${bed.indices.alias(index)}-v*` }))) {
            await indices.delete({ index: name }, { ignore: [404] });
          }
        }
      }
      ending.abort();
      for (const writes of await writing) expect(writes).toBeGreaterThan(0);
      // One survives, whichever has the leases.
      await kill(replicas[0]);
      for (const { index } of kinds) await bed.settled(index);
    },
  );
});

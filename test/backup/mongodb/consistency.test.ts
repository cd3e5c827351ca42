import { type Db, type Document, type MongoClient, type Timestamp } from "mongodb";
import { expect, test } from "vitest";

import { contentNames, rawContent, restore, rig, take } from "./harness.ts";
import { memoryStreams } from "./memory.ts";

/** Numbers from a seed: xorshift. */
function numbersFrom(seed: number): (below: number) => number {
  let state = seed * 2_654_435_761 + 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

interface Doc extends Document {
  _id: string;
}

/** What one write left of a document, in bytes as hex; undefined for nothing. */
type State = string | undefined;

/** Writes to documents of its own, one write after the other, and keeps what each acknowledged write left behind. */
class Writer {
  /** By `collection/_id`, in the order of the writes. */
  readonly journal = new Map<string, State[]>();
  #writes = 0;
  readonly #wrote: () => void;
  readonly #db: Db;
  readonly #client: MongoClient;
  readonly #name: string;
  readonly #next: (below: number) => number;

  /** `wrote` is called after each write. */
  constructor(client: MongoClient, db: Db, name: string, seed: number, wrote: () => void) {
    this.#client = client;
    this.#wrote = wrote;
    this.#db = db;
    this.#name = name;
    this.#next = numbersFrom(seed);
  }

  async run(until: () => boolean): Promise<void> {
    while (!until()) {
      if (this.#next(12) === 0) await this.#transaction();
      else await this.#one();
      this.#wrote();
    }
  }

  #pick(): { collection: string; id: string } {
    return { collection: this.#next(2) === 0 ? "first" : "second", id: `${this.#name}${this.#next(15)}` };
  }

  async #state(collection: string, id: string): Promise<State> {
    const found = await this.#db.collection<Doc>(collection).findOne({ _id: id }, { raw: true });
    // With `raw`, documents are their bytes.
    return found === null ? undefined : Buffer.from(found as unknown as Uint8Array).toString("hex");
  }

  #note(collection: string, id: string, state: State): void {
    const key = `${collection}/${id}`;
    this.journal.set(key, [...(this.journal.get(key) ?? []), state]);
  }

  async #one(): Promise<void> {
    const { collection, id } = this.#pick();
    const documents = this.#db.collection<Doc>(collection);
    const number = ++this.#writes;
    const there = await this.#state(collection, id);
    if (there === undefined) {
      const fresh = { number, list: [1, { x: 1 }, 3], nested: { a: 1, b: { c: [1, 2] } }, "1": "one" };
      if (this.#next(2) === 0) await documents.insertOne({ _id: id, ...fresh });
      else await documents.updateOne({ _id: id }, { $set: fresh, $setOnInsert: { made: number } }, { upsert: true });
    } else {
      await this.#change(documents, id, number);
    }
    this.#note(collection, id, await this.#state(collection, id));
  }

  async #change(documents: ReturnType<typeof this.documents>, id: string, number: number): Promise<void> {
    const filter = { _id: id };
    const set = (more: Document): Document => ({ $set: { number, ...more } });
    const optional = `optional${this.#next(4)}`;
    const updates: (() => Document | Document[])[] = [
      () => set({ [optional]: number }),
      () => ({ ...set({}), $unset: { [optional]: 1 } }),
      () => ({ ...set({}), $unset: { "nested.a": 1, [optional]: 1 } }),
      () => set({ "nested.a": number }),
      () => set({ "nested.b.d": { deep: [number] }, [`other${this.#next(5)}`]: number }),
      () => ({ ...set({}), $unset: { nested: 1 } }),
      () => set({ nested: number }),
      () => set({ nested: { a: number, b: { c: [number] } } }),
      () => ({ ...set({}), $push: { list: number } }),
      () => ({ ...set({}), $push: { list: { $each: [number, { x: number }], $slice: -4 } } }),
      () => ({ ...set({}), $pop: { list: 1 } }),
      () => ({ ...set({}), $pop: { list: -1 } }),
      () => set({ "list.1": { x: number } }),
      () => set({ list: [] }),
      () => set({ list: [1, { x: 1 }, 3, 4, 5] }),
      () => ({ ...set({}), $inc: { counter: 1 }, $mul: { factor: 2 } }),
      () => ({ ...set({}), $rename: { [optional]: "renamed" } }),
      () => [{ $set: { number, computed: { $concat: ["n", { $toString: number }] } } }, { $unset: optional }],
      () => [{ $set: { number, list: { $slice: [{ $concatArrays: [[number], [1, 2]] }, 2] } } }],
    ];
    const choice = this.#next(updates.length + 3);
    if (choice < updates.length) {
      const update = updates[choice]?.() ?? {};
      try {
        await documents.updateOne(filter, update);
      } catch {
        // The path leads nowhere in this document; the write must still be one.
        await documents.updateOne(filter, set({}));
      }
    } else if (choice === updates.length) {
      await documents.deleteOne(filter);
    } else {
      await documents.replaceOne(filter, { number, replaced: true, list: [number], nested: { z: 1, a: number } });
    }
  }

  documents() {
    return this.#db.collection<Doc>("first");
  }

  /** Two documents that are written at one time, or not at all. */
  async #transaction(): Promise<void> {
    const number = ++this.#writes;
    const keys = [
      { collection: "first", id: `${this.#name}0` },
      { collection: "second", id: `${this.#name}0` },
    ];
    await this.#client.withSession((session) =>
      session.withTransaction(async () => {
        for (const { collection, id } of keys) {
          const update = { $set: { number, together: number } };
          await this.#db.collection<Doc>(collection).updateOne({ _id: id }, update, { upsert: true, session });
        }
      }),
    );
    for (const { collection, id } of keys) this.#note(collection, id, await this.#state(collection, id));
  }
}

/** Makes, renames and drops collections one after the other; keeps what there is after each step. */
class Mover {
  readonly steps: { readonly names: string[]; readonly contents: string[][] }[] = [];
  readonly #db: Db;

  readonly #pause: () => Promise<void>;

  /** `pause` is between steps. */
  constructor(db: Db, pause: () => Promise<void>) {
    this.#db = db;
    this.#pause = pause;
  }

  async run(until: () => boolean): Promise<void> {
    for (let number = 0; !until(); number++) {
      const [made, moved] = [`moving_made${number}`, `moving_moved${number}`];
      await this.#step(() => this.#db.createCollection(made));
      await this.#step(() => this.#db.collection<Doc>(made).insertOne({ _id: `in${number}` }));
      await this.#step(() => this.#db.renameCollection(made, moved));
      await this.#step(() => this.#db.collection<Doc>(moved).insertOne({ _id: `later${number}` }));
      if (number % 2 === 0) await this.#step(() => this.#db.dropCollection(moved));
    }
  }

  async #step(work: () => Promise<unknown>): Promise<void> {
    await work();
    const names = (await contentNames(this.#db)).filter((name) => name.startsWith("moving_"));
    const contents: string[][] = [];
    for (const name of names) contents.push(await rawContent(this.#db, name));
    this.steps.push({ names, contents });
    await this.#pause();
  }
}

/** The times of what happened in a database, told by a change stream of its own. */
async function watched(client: MongoClient, db: Db) {
  const documents = new Map<string, Timestamp[]>();
  const steps: Timestamp[] = [];
  const stream = client.watch([{ $match: { "ns.db": db.databaseName } }], { showExpandedEvents: true });
  const first = stream.tryNext();
  await first;
  const note = (event: Document): boolean => {
    if (event["ns"].coll === "end_of_test") return false;
    const moving = String(event["ns"].coll).startsWith("moving_");
    const time = event["clusterTime"] as Timestamp;
    if (moving) {
      steps.push(time);
    } else if (event["documentKey"] !== undefined) {
      const key = `${event["ns"].coll}/${event["documentKey"]._id}`;
      documents.set(key, [...(documents.get(key) ?? []), time]);
    }
    return true;
  };
  return {
    documents,
    steps,
    /** Reads all that has happened. */
    async end(): Promise<void> {
      await db.collection<Doc>("end_of_test").insertOne({ _id: "end" });
      for await (const event of stream) if (!note(event)) break;
      await stream.close();
    },
  };
}

test.for([1, 2, 3, 4, 5])(
  "a backup under writers is the database at its time, to the last bit (seed %i)",
  async (seed) => {
    await using here = await rig();
    const { client } = here;
    const [db, restored] = [here.database(), here.database()];
    for (const name of ["first", "second", "still"]) {
      await db
        .collection<Doc>(name)
        .insertMany(Array.from({ length: 300 }, (_, index) => ({ _id: `still${index}`, text: "x".repeat(index) })));
    }
    const times = await watched(client, db);
    let over = false;
    const waiting = new Set<{ left: number; readonly go: () => void }>();
    const wrote = (): void => {
      for (const one of waiting) {
        if (--one.left > 0 && !over) continue;
        waiting.delete(one);
        one.go();
      }
    };
    /** Resolves when the writers have made so many more writes. */
    const advance = async (by: number): Promise<void> => {
      if (over) return;
      const { promise, resolve } = Promise.withResolvers<void>();
      waiting.add({ left: by, go: resolve });
      await promise;
    };
    const writers = Array.from(
      { length: 4 },
      (_, index) => new Writer(client, db, `w${index}_`, seed * 100 + index, wrote),
    );
    const mover = new Mover(db, () => advance(5));
    const writing = Promise.all([...writers, mover].map((writer) => writer.run(() => over)));

    // Each write into the repository lets the writers get on, so that all goes on at once.
    const streams = memoryStreams({ onWrite: () => advance(15) });
    await advance(20);
    const { units, cut } = await take(here, [db.databaseName], streams, { read: () => advance(20) });
    await advance(20);
    over = true;
    await writing;
    await times.end();

    const report = await restore(here, units, streams, { renames: [[db.databaseName, restored.databaseName]] });
    expect(report.filter(({ equal }) => equal !== true)).toEqual([]);

    const at = cut.mongodbClusterTime ?? 0n;
    const isBefore = (time: Timestamp): boolean => time.toBigInt() <= at;
    const expected = new Map<string, string[]>([
      ["first", []],
      ["second", []],
    ]);
    let before = 0;
    let after = 0;
    for (const writer of writers) {
      for (const [key, states] of writer.journal) {
        const timesOf = times.documents.get(key) ?? [];
        expect(timesOf.length).toBe(states.length);
        const count = timesOf.filter(isBefore).length;
        before += count;
        after += timesOf.length - count;
        const state = count === 0 ? undefined : states[count - 1];
        if (state !== undefined) expected.get(key.slice(0, key.indexOf("/")))?.push(state);
      }
    }
    // The test is about something only if there were writes on both sides of the cut.
    expect(Math.min(before, after)).toBeGreaterThan(10);
    for (const [name, documents] of expected) {
      const others = (await rawContent(db, name)).filter((hex) => hex.includes(Buffer.from("still").toString("hex")));
      expect(await rawContent(restored, name)).toEqual([...documents, ...others].toSorted());
    }
    expect(await rawContent(restored, "still")).toEqual(await rawContent(db, "still"));

    const step = times.steps.filter(isBefore).length - 1;
    expect(times.steps.length).toBe(mover.steps.length);
    const moved = step < 0 ? { names: [], contents: [] } : mover.steps[step];
    const names = (await contentNames(restored)).filter((name) => name.startsWith("moving_"));
    expect(names).toEqual(moved?.names);
    expect(await Promise.all(names.map((name) => rawContent(restored, name)))).toEqual(moved?.contents);
  },
);

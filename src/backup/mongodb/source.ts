import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { MongoClient } from "mongodb";

import type { ConsistencyPointSchema, Selection } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import type { Stream, UnitSchema } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail } from "../../errors.ts";
import type { RecordSink, Source, SourceRun, StreamWriter, Work } from "../contracts.ts";
import { each } from "../together.ts";
import {
  bucketsOf,
  countOf,
  hasBuckets,
  isCapped,
  type ListedCollection,
  listIndexes,
  listSelected,
  nameOf,
  type Namespaces,
  namespacesOf,
} from "./catalog.ts";
import { ChangeTail } from "./change-tail.ts";
import { type Part, partsOf, type Readable, readPart } from "./collection-reader.ts";
import { type CollectionCopy, type TrackedCollection, TrackedCollections } from "./collections.ts";
import { Reordered } from "./reordered.ts";

/** What is there is listed again where collections were made or dropped meanwhile, this often at most. */
const mostListings = 100;

/** A collection is read in parts where it has more documents than this, by default. */
const defaultPartDocuments = 1_000_000;

type UnitInit = MessageInitShape<typeof UnitSchema>;

/** A collection as it is at the cut. */
interface FinalCollection {
  readonly listed: ListedCollection;
  readonly indexes: readonly Uint8Array[];
}

/**
 * Backs up MongoDB: a replica set or a sharded cluster as of one cluster time, a single server by a plain read.
 *
 * How the copy is consistent without a lock and without snapshot reads. A change stream of the whole deployment is opened, and
 * it is proved to be positioned, before anything is read. Documents are then read while writers go on; from the moment that the
 * catalogue is known, all changes are recorded, up to a cluster time T after the last read. Restoring loads the documents and
 * applies the changes in order:
 *
 * - A document that no change is about was the same all the time, and every scan of the `_id` index passes it exactly once.
 * - A document that was made or deleted meanwhile may be in the copy or not. Its changes say which it is in the end: inserts
 *   and replacements carry the whole document, deletions its key, and an update that finds no document is ignored, since it
 *   comes before a deletion that the reader already saw.
 * - A document that was updated meanwhile was read in a state after some of its changes. Applying those again is harmless:
 *   a change sets paths to values, whatever is there before, and every path that an early change sets back is set forth by the
 *   later change that had set it so (`delta.ts`: nothing that is met on the way makes this fail).
 *
 * That is true of values. The order of fields could come out otherwise where a document was read after a field had been
 * removed, set again, and another one added behind it. `Reordered` knows such documents; they are read once more by
 * themselves, at a moment when nothing happens to them, and recorded as they then are. (An update with a pipeline that only
 * moves fields is not told apart from one that sets them; there the order may differ.)
 *
 * Collections are followed through being made, renamed and dropped; what was read of one while something happened to its name
 * is read again. The catalogue that restores use is listed at T: nothing happened to it between two marks around the listing.
 *
 * Fails with `BACKUP_HISTORY_LOST`, `BACKUP_SOURCE_CHANGED`. Servers do not tell the changes of time series: these are copied
 * as of when they are read. Collections named `system.…` and how collections are sharded are not copied.
 */
export function mongodbSource(options: {
  readonly client: MongoClient;
  /** The database that the service keeps for itself: not backed up; marks in the stream of changes are made in it. */
  readonly systemDatabase: string;
  /** Documents that a part of a collection has at least, where several readers read one; 1,000,000 where not set. */
  readonly partDocuments?: number;
}): Source {
  const { client, systemDatabase, partDocuments = defaultPartDocuments } = options;
  return {
    store: Store.MONGODB,
    async begin(selection: Selection, sink: RecordSink, work: Work): Promise<SourceRun> {
      const namespaces = namespacesOf(selection, [systemDatabase]);
      const hello = await client.db("admin").command({ hello: 1 });
      const replicated = hello["setName"] !== undefined || hello["msg"] === "isdbgrid";
      const run = new MongodbRun({ client, systemDatabase, sink, work, namespaces, replicated, partDocuments });
      try {
        await run.begin();
        return run;
      } catch (error) {
        await run[Symbol.asyncDispose]();
        throw error;
      }
    },
  };
}

interface RunOptions {
  readonly client: MongoClient;
  readonly systemDatabase: string;
  readonly sink: RecordSink;
  readonly work: Work;
  readonly namespaces: Namespaces;
  readonly replicated: boolean;
  readonly partDocuments: number;
}

class MongodbRun implements SourceRun {
  readonly #options: RunOptions;
  readonly #collections: TrackedCollections;
  readonly #reordered = new Reordered();
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  #tail: ChangeTail | undefined;
  #changes: StreamWriter | undefined;
  #from = 0n;
  #cut = 0n;
  readonly #indexes = new Map<string, { readonly version: number; readonly indexes: readonly Uint8Array[] }>();
  #final: readonly FinalCollection[] = [];

  constructor(options: RunOptions) {
    this.#options = options;
    this.#collections = new TrackedCollections(options.namespaces);
    this.#signal = AbortSignal.any([options.work.signal, this.#stop.signal]);
  }

  async begin(): Promise<void> {
    const { client, systemDatabase, namespaces, sink, replicated } = this.#options;
    if (!replicated) {
      this.#follow(await listSelected(client, namespaces));
      await this.#plan();
      return;
    }
    this.#tail = await ChangeTail.open({
      client,
      namespaces,
      systemDatabase,
      collections: this.#collections,
      signal: this.#signal,
      noted: (collection, event) => this.#reordered.note(collection, event),
      failed: (error) => this.#stop.abort(error),
    });
    this.#changes = sink.open();
    const tail = this.#tail;
    const changes = this.#changes;
    await this.#listed(
      () => listSelected(client, namespaces),
      (listed) => {
        this.#follow(listed);
        this.#from = tail.position;
        tail.record(changes);
      },
    );
    await this.#plan();
  }

  async read(): Promise<void> {
    await this.#readAll();
  }

  async cut(): Promise<MessageInitShape<typeof ConsistencyPointSchema>> {
    const { client, namespaces } = this.#options;
    const tail = this.#tail;
    if (tail === undefined) {
      this.#final = await this.#withIndexes(await listSelected(client, namespaces));
      return { mongodbConsistent: false };
    }
    for (;;) {
      const unknown = await this.#listed(
        async () => this.#withIndexes(await listSelected(client, namespaces)),
        (final, time) => {
          const fresh = final.filter(({ listed }) => this.#isUnknown(listed));
          for (const { listed } of fresh) this.#collections.add(listed, { read: true, capped: isCapped(listed) });
          if (fresh.length > 0 || this.#collections.unread().length > 0) return true;
          this.#final = final;
          this.#cut = time;
          tail.recordUntil(time);
          return false;
        },
      );
      if (!unknown) break;
      await this.#readAll();
    }
    return {
      mongodbConsistent: !this.#final.some(({ listed }) => listed.kind === "timeseries"),
      mongodbClusterTime: this.#cut,
      mongodbTime: timestampFromMs(Number(this.#cut >> 32n) * 1000),
    };
  }

  async finish(): Promise<UnitInit[]> {
    const units = this.#final.flatMap((final) => this.#unitOf(final) ?? []);
    if (this.#tail === undefined || this.#changes === undefined) return units;
    await this.#tail.drain();
    const stream = await this.#changes.seal();
    if (units.length === 0) return [];
    units.push({
      store: Store.MONGODB,
      name: "changes",
      description: {
        case: "mongodbChanges",
        value: { fromClusterTime: this.#from, toClusterTime: this.#cut, resumeToken: this.#tail.resumeToken },
      },
      ...totalsOf([stream]),
    });
    return units;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await using stack = new AsyncDisposableStack();
    stack.use(this.#changes);
    stack.use(this.#tail);
    this.#stop.abort(new Error("The backup is over"));
  }

  /**
   * Lists what is there, until nothing happened to it from before the listing until after. `accept` is called at a mark, with its
   * time: what was listed is so at that time.
   */
  async #listed<T, R>(list: () => Promise<T>, accept: (listed: T, time: bigint) => R): Promise<R> {
    const tail = this.#tail;
    if (tail === undefined) throw new Error("There is no stream of changes");
    for (let count = 0; count < mostListings; count++) {
      await tail.mark();
      const { version } = this.#collections;
      const listed = await list();
      let accepted: { readonly result: R } | undefined;
      await tail.mark((time) => {
        if (this.#collections.version === version) accepted = { result: accept(listed, time) };
      });
      if (accepted !== undefined) return accepted.result;
    }
    throw fail("BACKUP_SOURCE_CHANGED", "Collections are made and dropped without a pause", {
      metadata: { store: "mongodb" },
      retryAfterMs: 10_000,
    });
  }

  #follow(listed: readonly ListedCollection[]): void {
    for (const one of listed) {
      if (one.kind !== "view") this.#collections.add(one, { read: true, capped: isCapped(one) });
    }
  }

  #isUnknown({ database, collection, kind }: ListedCollection): boolean {
    return kind !== "view" && this.#collections.find(database, collection) === undefined;
  }

  async #plan(): Promise<void> {
    const { client, work } = this.#options;
    const counted = this.#collections.all.filter(({ gone, kind }) => !gone && kind === "collection");
    await each(counted, { atOnce: work.parallelism, stop: this.#stop }, async (tracked) => {
      tracked.count = await countOf(client.db(tracked.database), tracked.collection);
      work.meter.plan(Store.MONGODB, nameOf(tracked), tracked.count);
    });
    this.#signal.throwIfAborted();
  }

  /** Reads what is not read; again what something happened to meanwhile. */
  async #readAll(): Promise<void> {
    for (let round = 0; round < mostListings; round++) {
      const unread = this.#collections.unread();
      if (unread.length === 0) return;
      for (const { copy } of unread) if (copy !== undefined) this.#count(copy, -copy.documents, -copy.bytes);
      const pieces = this.#pieces(unread);
      const { parallelism } = this.#options.work;
      await each(pieces, { atOnce: parallelism, stop: this.#stop }, (piece) => this.#readPiece(piece));
      this.#signal.throwIfAborted();
      if (this.#tail === undefined) return;
      await this.#tail.mark();
      this.#collections.unread();
      await this.#reordered.settle(this.#tail, { client: this.#options.client, signal: this.#signal });
    }
    throw fail("BACKUP_SOURCE_CHANGED", "Collections are renamed faster than they can be read", {
      metadata: { store: "mongodb" },
      retryAfterMs: 10_000,
    });
  }

  /** The parts of the collections, found as they are needed. */
  async *#pieces(unread: readonly TrackedCollection[]): AsyncGenerator<Piece> {
    const { client, work, partDocuments } = this.#options;
    for (const tracked of unread) {
      const db = client.db(tracked.database);
      const copy: CollectionCopy = {
        version: tracked.version,
        proven: false,
        meterName: nameOf(tracked),
        streams: [],
        buckets: tracked.kind === "timeseries" && (await hasBuckets(db, tracked.collection)),
        documents: 0,
        bytes: 0,
      };
      tracked.copy = copy;
      const order = tracked.kind === "collection" && !tracked.capped ? "id" : "natural";
      const collection = copy.buckets ? bucketsOf(tracked.collection) : tracked.collection;
      const readable: Readable = { database: tracked.database, collection, order };
      const parts = await partsOf(db, readable, Math.min(work.parallelism, tracked.count / partDocuments));
      for (const [index, part] of parts.entries()) yield { tracked, copy, readable, part, index };
    }
  }

  async #readPiece({ tracked, copy, readable, part, index }: Piece): Promise<void> {
    // It is read again under its new name, if it has one.
    if (tracked.version !== copy.version) return;
    const { client, sink, replicated } = this.#options;
    copy.streams[index] = await readPart(readable, part, () => sink.open(), {
      client,
      replicated,
      signal: this.#signal,
      count: (documents, bytes) => this.#count(copy, documents, bytes),
    });
  }

  #count(copy: CollectionCopy, documents: number, bytes: number): void {
    copy.documents += documents;
    copy.bytes += bytes;
    this.#options.work.meter.add(Store.MONGODB, copy.meterName, documents, bytes);
  }

  /** Indexes are listed again only where something happened to their collection: quickly, where things happen all the time. */
  async #withIndexes(listed: readonly ListedCollection[]): Promise<FinalCollection[]> {
    const final: FinalCollection[] = [];
    for (const one of listed) {
      const version = this.#collections.versionOf(one);
      const known = this.#indexes.get(nameOf(one));
      const db = this.#options.client.db(one.database);
      const fresh = known?.version === version ? known.indexes : await listIndexes(db, one.collection);
      this.#indexes.set(nameOf(one), { version, indexes: fresh });
      final.push({ listed: one, indexes: one.kind === "view" ? [] : fresh });
    }
    return final;
  }

  #unitOf({ listed, indexes }: FinalCollection): UnitInit | undefined {
    const { meter } = this.#options.work;
    const tracked = this.#collections.find(listed.database, listed.collection);
    // Without changes to follow, what was made after the beginning is not in the copy.
    if (tracked === undefined && listed.kind !== "view") return undefined;
    const copy = tracked?.copy;
    const name = nameOf(listed);
    if (copy !== undefined && copy.meterName !== name) {
      meter.add(Store.MONGODB, copy.meterName, -copy.documents, -copy.bytes);
      meter.add(Store.MONGODB, name, copy.documents, copy.bytes);
    }
    const { database, collection, kind, options, uuid } = listed;
    return {
      store: Store.MONGODB,
      name,
      description: {
        case: "mongodbCollection",
        value: {
          database,
          collection,
          kind,
          options,
          indexes: [...indexes],
          uuid,
          number: this.#tail === undefined || kind !== "collection" ? 0 : (tracked?.number ?? 0),
          buckets: copy?.buckets ?? false,
        },
      },
      ...totalsOf(copy?.streams ?? []),
    };
  }
}

interface Piece {
  readonly tracked: TrackedCollection;
  readonly copy: CollectionCopy;
  readonly readable: Readable;
  readonly part: Part;
  readonly index: number;
}

function totalsOf(streams: readonly Stream[]) {
  return {
    streams: [...streams],
    recordCount: streams.reduce((sum, { recordCount }) => sum + recordCount, 0n),
    recordBytes: streams.reduce((sum, { recordBytes }) => sum + recordBytes, 0n),
  };
}

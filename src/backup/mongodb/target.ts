import type { MessageInitShape } from "@bufbuild/protobuf";
import type { MongoClient } from "mongodb";

import { JobPhase, type RestoredUnitSchema } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import type { Stream, Unit } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import type { RecordSource, RestorePlan, Target, TargetRun, Work } from "../contracts.ts";
import { each } from "../together.ts";
import {
  createCollection,
  createIndexes,
  createView,
  differences,
  letExpire,
  repairValidation,
  viewedBy,
} from "./definitions.ts";
import { isInterruption, serverCode } from "./errors.ts";
import { CappedLedger, Ledger } from "./ledger.ts";
import { compareMerged, merge } from "./merge.ts";
import { rawDocuments } from "./raw-batches.ts";
import { commandBatches, insertRaw } from "./raw-writes.ts";
import { replay, requireWritten, roundsOf } from "./replay.ts";
import { plannedCollections } from "./restore-plan.ts";
import type { RestoredCollection } from "./restored-collection.ts";

/**
 * Restores into MongoDB. Documents are loaded as they are, then the changes are applied, then indexes are built, then what was
 * there is replaced. Where nothing is there, a collection is made in its place; otherwise it is made beside what is there, in the
 * same database, and renamed in one step when it is complete, so that a restore that fails loses nothing. A time series cannot
 * be renamed: one that is there is dropped before the new one is made. Views come last, those that others look at first.
 * Documents expire only when all have been compared.
 *
 * The comparison is of all bytes of all documents. What must be there is added up while documents are written (`Ledger`), and
 * compared with a scan of what is there; that takes no memory. Where documents were put beside others, each that was written is
 * looked up again.
 */
export function mongodbTarget(options: {
  readonly client: MongoClient;
  /** The database that the service keeps for itself: nothing is restored into it. */
  readonly systemDatabase: string;
}): Target {
  return {
    store: Store.MONGODB,
    async prepare(plan: RestorePlan, source: RecordSource, work: Work): Promise<TargetRun> {
      const changes = plan.units.find(({ description }) => description.case === "mongodbChanges");
      return new MongodbRestore(await plannedCollections(plan, options), changes, source, work);
    },
  };
}

class MongodbRestore implements TargetRun {
  readonly #collections: readonly RestoredCollection[];
  readonly #views: readonly RestoredCollection[];
  readonly #changes: Unit | undefined;
  readonly #source: RecordSource;
  readonly #work: Work;
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  /** Collections under interim names, to be removed in the end. */
  readonly #interim = new Set<RestoredCollection>();

  constructor(all: readonly RestoredCollection[], changes: Unit | undefined, source: RecordSource, work: Work) {
    this.#collections = all.filter(({ isView }) => !isView);
    this.#views = inOrder(all.filter(({ isView }) => isView));
    this.#changes = changes;
    this.#source = source;
    this.#work = work;
    this.#signal = AbortSignal.any([work.signal, this.#stop.signal]);
  }

  async restore(): Promise<void> {
    const { meter } = this.#work;
    await this.#each(this.#collections, (collection) => this.#make(collection));
    await this.#each(streamsOf(this.#collections), ([collection, stream]) => this.#load(collection, stream));
    for (const collection of this.#collections) collection.stage = "replaying";
    meter.phase(JobPhase.REPLAYING);
    await this.#replay();
    meter.phase(JobPhase.INDEXING);
    await this.#each(this.#collections, (collection) => this.#index(collection));
    await this.#each(this.#collections, (collection) => this.#publish(collection));
    for (const view of this.#views) await this.#makeView(view);
  }

  async compare(): Promise<void> {
    await this.#each(this.#collections, async (collection) => {
      await (collection.merges ? this.#compareMerged(collection) : this.#compareWhole(collection));
      const left = await createIndexes(collection.db, collection.name, collection.description, "expiring");
      if (left.length > 0) collection.remark ||= `Indexes that are there differ: ${left.join(", ")}`;
      if (!collection.merges) await letExpire(collection.db, collection.name, collection.description);
      await this.#finish(collection);
    });
    for (const view of this.#views) await this.#finish(view);
  }

  report(): MessageInitShape<typeof RestoredUnitSchema>[] {
    return [...this.#collections, ...this.#views].map((collection) => collection.report());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new Error("The restore is over"));
    for (const { db, place } of this.#interim) {
      try {
        await db.dropCollection(place);
      } catch (error) {
        // It stays under its interim name where the server is away; what made the restore end is worth more than this.
        if (!isInterruption(error)) throw error;
      }
    }
  }

  async #each<T>(items: Iterable<T>, work: (item: T) => Promise<void>): Promise<void> {
    await each(items, { atOnce: this.#work.parallelism, stop: this.#stop }, work);
    this.#signal.throwIfAborted();
  }

  async #make(collection: RestoredCollection): Promise<void> {
    const { db, place, name, description, way } = collection;
    this.#signal.throwIfAborted();
    if (place === name && way === "replace") await db.dropCollection(name);
    if (place !== name) this.#interim.add(collection);
    collection.stage = "loading";
    await createCollection(db, place, description);
  }

  async #load(collection: RestoredCollection, stream: Stream): Promise<void> {
    for await (const batch of this.#source.records(stream, this.#signal)) {
      for (const documents of commandBatches(batch, ({ byteLength }) => byteLength)) {
        await this.#insert(collection, documents);
      }
    }
  }

  async #insert(collection: RestoredCollection, documents: readonly Uint8Array[]): Promise<void> {
    const { db, recordsPlace, ledger, capped, namespace, unit } = collection;
    this.#signal.throwIfAborted();
    const errors = await insertRaw(db, recordsPlace, documents, { ordered: capped });
    // A document that moved from shard to shard while it was read may have been read twice; the changes set it right.
    const repeated = new Set(errors.filter(({ code }) => code === serverCode.duplicateKey).map(({ index }) => index));
    requireWritten(
      errors.filter(({ index }) => !repeated.has(index)),
      namespace,
    );
    let bytes = 0;
    for (const [index, document] of documents.entries()) {
      bytes += document.byteLength;
      if (!repeated.has(index)) ledger.add(document);
    }
    if (!collection.merges) collection.written = ledger.documents;
    this.#work.meter.add(Store.MONGODB, unit.name, documents.length, bytes);
  }

  async #replay(): Promise<void> {
    const byNumber = new Map(
      this.#collections
        .filter(({ description }) => description.number !== 0)
        .map((collection) => [collection.description.number, collection]),
    );
    for (const stream of this.#changes?.streams ?? []) {
      const records = this.#source.records(stream, this.#signal);
      for await (const round of roundsOf(records, (number) => byNumber.has(number))) {
        await this.#each(round.changes, async ([number, changes]) => {
          const collection = byNumber.get(number);
          if (collection !== undefined) await this.#replayIn(collection, changes);
        });
        this.#work.meter.add(Store.MONGODB, this.#changes?.name ?? "", round.records, round.bytes);
      }
    }
  }

  async #replayIn(collection: RestoredCollection, changes: Parameters<typeof replay>[1]): Promise<void> {
    const { db, place, capped, ledger } = collection;
    const note = (before: Uint8Array | undefined, after: Uint8Array | undefined): void => {
      // A capped ledger keeps the place of a document that is changed.
      if (before !== undefined && !(capped && after !== undefined)) ledger.remove(before);
      if (after !== undefined) ledger.add(after);
    };
    await replay({ db, collection: place, capped, note }, changes, this.#signal);
    if (!collection.merges) collection.written = ledger.documents;
  }

  async #index(collection: RestoredCollection): Promise<void> {
    this.#signal.throwIfAborted();
    collection.stage = "indexing";
    if (collection.merges) return;
    await createIndexes(collection.db, collection.place, collection.description, "lasting");
  }

  async #publish(collection: RestoredCollection): Promise<void> {
    this.#signal.throwIfAborted();
    const { db, name, place, description, replaces } = collection;
    collection.stage = "publishing";
    if (collection.merges) {
      await merge(collection, this.#signal);
      const left = await createIndexes(db, name, description, "lasting");
      if (left.length > 0) collection.remark = `Indexes that are there differ: ${left.join(", ")}`;
    } else if (place !== name) {
      if (replaces !== undefined && replaces !== "collection") await db.dropCollection(name);
      await db.renameCollection(place, name, { dropTarget: true });
      this.#interim.delete(collection);
      await repairValidation(db, name, description);
    }
    collection.stage = "in place";
  }

  async #makeView(view: RestoredCollection): Promise<void> {
    this.#signal.throwIfAborted();
    const { db, name, replaces, way, description } = view;
    if (way !== "skip") {
      view.stage = "publishing";
      if (replaces !== undefined) await db.dropCollection(name);
      await createView(db, name, this.#viewedBy(view), description);
    }
    view.stage = "in place";
  }

  /** A view looks at the restored collection where the one it looked at was renamed within its database. */
  #viewedBy({ db, description }: RestoredCollection): string {
    const viewed = viewedBy(description);
    const renamed = [...this.#collections, ...this.#views].find(
      (one) => one.description.database === description.database && one.description.collection === viewed,
    );
    return renamed?.db.databaseName === db.databaseName ? renamed.name : viewed;
  }

  async #compareWhole(collection: RestoredCollection): Promise<void> {
    const { db, ledger, capped, unit } = collection;
    const found = capped ? new CappedLedger() : new Ledger();
    const name = collection.recordsPlace.replace(collection.place, () => collection.name);
    let [documents, bytes] = [0, 0];
    const tell = (): void => {
      this.#work.meter.add(Store.MONGODB, unit.name, documents, bytes);
      [documents, bytes] = [0, 0];
    };
    for await (const document of rawDocuments(db, { find: name })) {
      found.add(document);
      documents++;
      bytes += document.byteLength;
      if (documents < 1000) continue;
      this.#signal.throwIfAborted();
      tell();
    }
    tell();
    if (ledger instanceof Ledger && found instanceof Ledger) {
      collection.equalDocuments = ledger.equalDocuments(found);
      if (!ledger.equals(found)) collection.remark = `${found.documents} documents are there, not all as expected`;
    } else if (ledger instanceof CappedLedger && found instanceof CappedLedger) {
      if (ledger.overflowed || found.overflowed) collection.remark = "Too large a capped collection to be compared";
      else if (ledger.endsWith(found)) collection.equalDocuments = found.documents;
      else collection.remark = `${found.documents} documents are there, not all as expected`;
    }
  }

  async #compareMerged(collection: RestoredCollection): Promise<void> {
    const note = (documents: readonly Uint8Array[], equal: number): void => {
      collection.equalDocuments += equal;
      const bytes = documents.reduce((sum, { byteLength }) => sum + byteLength, 0);
      this.#work.meter.add(Store.MONGODB, collection.unit.name, documents.length, bytes);
    };
    collection.equalDocuments = 0;
    await compareMerged(collection, note, this.#signal);
    if (collection.equalDocuments !== collection.ledger.documents) {
      collection.remark = `${collection.equalDocuments} of ${collection.ledger.documents} documents are as expected`;
    }
    this.#interim.delete(collection);
    await collection.db.dropCollection(collection.place);
  }

  /** Options and indexes are the backup's, except where documents were put into what was there. */
  async #finish(collection: RestoredCollection): Promise<void> {
    if (collection.isView ? collection.way !== "skip" : !collection.merges) {
      const differing = await differences(collection.db, collection.name, collection.description);
      if (differing.length > 0) collection.remark ||= `Not as in the backup: ${differing.join(", ")}`;
    }
    collection.equal = collection.remark === "";
    collection.stage = "compared";
  }
}

function* streamsOf(collections: readonly RestoredCollection[]): Generator<[RestoredCollection, Stream]> {
  for (const collection of collections) for (const stream of collection.unit.streams) yield [collection, stream];
}

/** Views that others look at first. */
function inOrder(views: readonly RestoredCollection[]): RestoredCollection[] {
  const key = (database: string, collection: string): string => `${database}.${collection}`;
  const byName = new Map(
    views.map((view) => [key(view.description.database, view.description.collection), view] as const),
  );
  const ordered = new Set<RestoredCollection>();
  const visit = (view: RestoredCollection): void => {
    if (ordered.has(view)) return;
    const viewed = byName.get(key(view.description.database, viewedBy(view.description)));
    byName.delete(key(view.description.database, view.description.collection));
    if (viewed !== undefined) visit(viewed);
    ordered.add(view);
  };
  for (const view of views) visit(view);
  return [...ordered];
}

import type { Stream } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { nameOf, type CollectionKind, type ListedCollection, type Namespaces } from "./catalog.ts";
import { type ChangeEvent, isDocumentChange } from "./change-record.ts";

/** A collection as a backup follows it, under whatever name. */
export interface TrackedCollection {
  /** What the records of changes call it, from 1. */
  readonly number: number;
  readonly database: string;
  collection: string;
  readonly kind: CollectionKind;
  readonly capped: boolean;
  /** Counts what has happened to its name; documents that were read meanwhile may be of another collection. */
  version: number;
  /** Dropped, or renamed into what is not selected. */
  gone: boolean;
  /** Whether all documents of it must come from reading it; false where it was made when changes were captured already. */
  readonly read: boolean;
  /** About how many documents it had in the beginning. */
  count: number;
  /** What was read of it. */
  copy: CollectionCopy | undefined;
}

/** The documents of a collection. */
export interface CollectionCopy {
  /** Of `TrackedCollection` when the reading began. */
  readonly version: number;
  /** Whether it is known that nothing happened to the collection's name while it was read. */
  proven: boolean;
  /** The name that progress was counted under. */
  readonly meterName: string;
  readonly streams: Stream[];
  readonly buckets: boolean;
  documents: number;
  bytes: number;
}

/**
 * The selected collections and what becomes of them, told by the stream of changes. Names are followed rather than the server's
 * ids, since ids change where a collection is resharded.
 */
export class TrackedCollections {
  readonly all: TrackedCollection[] = [];
  /** Counts what has happened to collections that are selected. */
  version = 0;
  readonly #byName = new Map<string, TrackedCollection>();
  /** What has happened to collections that are selected, by name. */
  readonly #versions = new Map<string, number>();
  readonly #namespaces: Namespaces;

  constructor(namespaces: Namespaces) {
    this.#namespaces = namespaces;
  }

  find(database: string, collection: string): TrackedCollection | undefined {
    return this.#byName.get(nameOf({ database, collection }));
  }

  /** Counts what has happened to what has that name, or had. */
  versionOf(at: { readonly database: string; readonly collection: string }): number {
    return this.#versions.get(nameOf(at)) ?? 0;
  }

  /** Follows a collection from now on. */
  add(
    { database, collection, kind }: Pick<ListedCollection, "database" | "collection" | "kind">,
    { read, capped = false }: { readonly read: boolean; readonly capped?: boolean },
  ): TrackedCollection {
    const tracked: TrackedCollection = {
      number: this.all.length + 1,
      database,
      collection,
      kind,
      capped,
      version: 0,
      gone: false,
      read,
      count: 0,
      copy: undefined,
    };
    this.all.push(tracked);
    this.#byName.set(nameOf(tracked), tracked);
    return tracked;
  }

  /** Takes in what has happened to a collection or a database. */
  note(event: ChangeEvent): void {
    const { database, collection, to } = event;
    switch (event.operation) {
      case "create":
        this.#created(event);
        break;
      case "drop":
        this.#happened(event);
        this.#remove(this.find(database, collection));
        break;
      case "rename":
        if (to !== undefined) this.#renamed({ database, collection }, to);
        break;
      case "dropDatabase":
        if (this.#namespaces.holdsDatabase(database)) this.version++;
        for (const tracked of this.#byName.values()) if (tracked.database === database) this.#remove(tracked);
        break;
      default:
        // Indexes, options, shard keys: what is listed in the end has them.
        if (!isDocumentChange(event)) this.#happened(event);
    }
  }

  #happened(at: { readonly database: string; readonly collection: string }): void {
    if (!this.#namespaces.holds(at.database, at.collection)) return;
    this.version++;
    this.#versions.set(nameOf(at), this.versionOf(at) + 1);
  }

  #created(event: ChangeEvent): void {
    const { database, collection, namespaceType = "collection" } = event;
    if (!this.#namespaces.holds(database, collection)) return;
    this.#happened(event);
    if (namespaceType === "view") return;
    const kind = namespaceType === "timeseries" ? "timeseries" : "collection";
    // The changes of a time series are not told; it has to be read.
    if (this.find(database, collection) === undefined) {
      this.add({ database, collection, kind }, { read: kind === "timeseries" });
    }
  }

  #renamed(
    from: { readonly database: string; readonly collection: string },
    to: { readonly database: string; readonly collection: string },
  ): void {
    const moved = this.find(from.database, from.collection);
    const arrives = this.#namespaces.holds(to.database, to.collection);
    this.#happened(from);
    this.#happened(to);
    if (arrives) this.#remove(this.find(to.database, to.collection));
    if (moved === undefined) {
      // It comes from what is not selected, so that nothing is known of it: it is read from here on.
      if (arrives) this.add({ ...to, kind: "collection" }, { read: true });
    } else if (!arrives || from.database !== to.database) {
      this.#remove(moved);
      if (arrives) this.add({ ...to, kind: moved.kind }, { read: true, capped: moved.capped });
    } else {
      this.#byName.delete(nameOf(moved));
      moved.collection = to.collection;
      moved.version++;
      this.#byName.set(nameOf(moved), moved);
    }
  }

  #remove(tracked: TrackedCollection | undefined): void {
    if (tracked === undefined) return;
    tracked.gone = true;
    tracked.version++;
    this.#byName.delete(nameOf(tracked));
  }

  /**
   * Those that have yet to be read, or were read while something happened to their names. To be called when all is known that
   * had happened before the last reading ended.
   */
  unread(): TrackedCollection[] {
    const unread: TrackedCollection[] = [];
    for (const tracked of this.all) {
      const { gone, read, copy, version, kind } = tracked;
      if (gone || kind === "view") continue;
      if (copy === undefined ? read : !copy.proven && copy.version !== version) unread.push(tracked);
      else if (copy !== undefined) copy.proven = true;
    }
    return unread;
  }
}

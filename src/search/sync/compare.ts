import { createHash } from "node:crypto";

import type { Db } from "mongodb";

import { searchCopier } from "../../schema/search-copy.ts";
import type { SearchedMessage } from "../../schema/search-mapping.ts";
import type { SearchStore } from "../../stores/search.ts";
import { requestMs } from "../../stores/search/requests.ts";
import type { DeadLetters } from "./dead-letters.ts";
import { majority } from "./groups.ts";
import { copiesAfter, type IndexedCopy } from "./pages.ts";
import { damagedDocument } from "./refusals.ts";
import type { Writer } from "./writer.ts";

/** How a document and its copy differ. */
export interface Found {
  readonly id: string;
  readonly key: string;
  readonly kind: "MISSING" | "OLDER" | "NEWER" | "CONTENT" | "SURPLUS";
  readonly revision: bigint;
  readonly indexedRevision: bigint;
}

/** What a comparison has found so far. */
export interface Tally {
  total: number;
  compared: number;
  different: number;
  repaired: number;
  deadLetters: number;
  /** The first ones that differed. */
  readonly differences: Found[];
  /** Of all ids, revisions and contents as they were read first; set at the end. */
  documentsDigest: string;
  indexDigest: string;
}

export interface CompareOptions {
  readonly message: SearchedMessage;
  readonly db: Db;
  readonly collection: string;
  readonly search: Pick<SearchStore, "client">;
  readonly alias: string;
  readonly deadLetters: Pick<DeadLetters, "among">;
  readonly writer: Writer;
  readonly repair: boolean;
  /** Resolves when all that has happened until now is in the index, or does not come there. */
  readonly caughtUp: (signal: AbortSignal) => Promise<void>;
  readonly signal: AbortSignal;
  readonly progress: (tally: Tally) => void;
}

/** Documents and copies that are read at once. */
const pageSize = 1000;
/** Differences that are looked at again together, and that are named. */
const mostAgain = 500;
const mostNamed = 1000;

/**
 * Walks through a collection and its index side by side, in the order of the ids, and compares revisions and contents: each copy has a
 * digest of what is in it, and of each document it is made anew. What differs while writers write is looked at again when the synchronisation has passed that moment, and only counts where it differs still.
 */
export async function compare(options: CompareOptions): Promise<Tally> {
  const { db, collection, search, alias, signal, progress } = options;
  const tally: Tally = {
    total: await db.collection(collection).estimatedDocumentCount({ maxTimeMS: requestMs }),
    compared: 0,
    different: 0,
    repaired: 0,
    deadLetters: 0,
    differences: [],
    documentsDigest: "",
    indexDigest: "",
  };
  await options.caughtUp(signal);
  await search.client.indices.refresh({ index: alias }, { signal, requestTimeout: requestMs });
  const digests = { documents: createHash("sha256"), index: createHash("sha256") };
  let doubtful: Found[] = [];
  for await (const [document, copy] of sideBySide(documentsOf(options), copiesOf(options), pausing(signal))) {
    if (document !== undefined) {
      tally.compared += 1;
      digests.documents.update(lineOf(document));
    }
    if (copy !== undefined) digests.index.update(lineOf(copy));
    const found = difference(document, copy);
    if (found !== undefined) doubtful.push(found);
    if (doubtful.length >= mostAgain) {
      await lookAgain(doubtful, tally, options);
      doubtful = [];
    }
    if (tally.compared % pageSize === 0) progress(tally);
  }
  await lookAgain(doubtful, tally, options);
  tally.documentsDigest = digests.documents.digest("hex");
  tally.indexDigest = digests.index.digest("hex");
  progress(tally);
  return tally;
}

/** One side of a comparison. */
interface Item {
  readonly id: string;
  readonly key: string;
  readonly revision: bigint;
  readonly digest: string;
}

function lineOf({ id, revision, digest }: Item): string {
  return `${id}\0${revision}\0${digest}\n`;
}

function difference(document: Item | undefined, copy: Item | undefined): Found | undefined {
  if (document === undefined && copy === undefined) return undefined;
  const { id, key } = (document ?? copy) as Item; // one of them is there
  const both = { id, key, revision: document?.revision ?? 0n, indexedRevision: copy?.revision ?? 0n };
  if (copy === undefined) return { ...both, kind: "MISSING" };
  if (document === undefined) return { ...both, kind: "SURPLUS" };
  if (copy.revision === document.revision) {
    return copy.digest === document.digest ? undefined : { ...both, kind: "CONTENT" };
  }
  return { ...both, kind: copy.revision < document.revision ? "OLDER" : "NEWER" };
}

async function* documentsOf(options: CompareOptions): AsyncGenerator<Item> {
  const { db, collection, message, signal } = options;
  const read = itemsOf(message);
  const found = db
    .collection(collection, majority)
    .find<Uint8Array>(
      { [message.id]: { $gt: "" } },
      { raw: true, sort: { [message.id]: 1 }, batchSize: pageSize, signal },
    );
  for await (const document of found) {
    const item = read(document);
    // A dead letter tells of what has no id.
    if (item.id !== "") yield item;
  }
}

/** What the copy of a document would be. One of which there cannot be any has no digest. */
function itemsOf(message: SearchedMessage): (document: Uint8Array) => Item {
  const copier = searchCopier(message);
  return (document) => {
    try {
      const { id, key, revision, digest } = copier.fromBson(document);
      return { id, key, revision, digest };
    } catch (error) {
      const { document_id: id, key, revision } = damagedDocument(document, message, error);
      return { id, key, revision, digest: "" };
    }
  };
}

/** The next page is asked for while one is compared: the other side reads meanwhile too. */
async function* copiesOf({ search, alias, message, signal }: CompareOptions): AsyncGenerator<IndexedCopy> {
  const ask = (after: string): Promise<IndexedCopy[]> => {
    const asked = copiesAfter(search, { alias, message }, { after, size: pageSize, signal });
    // Whoever takes it is told.
    asked.catch(() => undefined);
    return asked;
  };
  let next: Promise<IndexedCopy[]> | undefined = ask("");
  try {
    while (next !== undefined) {
      const found: IndexedCopy[] = await next;
      const last = found.at(-1);
      next = last === undefined || found.length < pageSize ? undefined : ask(last.id);
      for (const copy of found) if (!copy.isRemoved) yield copy;
    }
  } finally {
    await next?.catch(() => undefined);
  }
}

/** Pairs of what has the same id in two sequences that are in the order of their ids. */
async function* sideBySide<A extends Item, B extends Item>(
  left: AsyncGenerator<A>,
  right: AsyncGenerator<B>,
  turn: () => Promise<void>,
): AsyncGenerator<[A | undefined, B | undefined]> {
  try {
    let [one, other] = [await left.next(), await right.next()];
    while (one.done !== true || other.done !== true) {
      const order = one.done === true ? 1 : other.done === true ? -1 : byBytes(one.value.id, other.value.id);
      yield [
        one.done !== true && order <= 0 ? one.value : undefined,
        other.done !== true && order >= 0 ? other.value : undefined,
      ];
      if (order <= 0) one = await left.next();
      if (order >= 0) other = await right.next();
      await turn();
    }
  } finally {
    await left.return(undefined);
    await right.return(undefined);
  }
}

/** Both stores sort text by its bytes in UTF-8, which is not how JavaScript does. */
function byBytes(one: string, other: string): number {
  return one === other ? 0 : Buffer.compare(Buffer.from(one), Buffer.from(other));
}

/** Lets others have their turn now and then, and ends the walk when it is no longer wanted. */
function pausing(signal: AbortSignal): () => Promise<void> {
  let steps = 0;
  return async () => {
    steps += 1;
    if (steps % 200 !== 0) return;
    signal.throwIfAborted();
    await new Promise<void>((resolve) => {
      setImmediate(resolve);
    });
  };
}

async function lookAgain(doubtful: readonly Found[], tally: Tally, options: CompareOptions): Promise<void> {
  if (doubtful.length === 0) return;
  const { deadLetters, message, repair, writer, caughtUp, signal } = options;
  await caughtUp(signal);
  const left = await stillDifferent(doubtful, options);
  const refused = await deadLetters.among(
    message.name,
    left.map(({ key }) => key),
  );
  const isRefused = ({ key, revision }: Found): boolean => refused.get(key) === revision;
  const different = left.filter((found) => !isRefused(found));
  tally.deadLetters += left.length - different.length;
  tally.different += different.length;
  tally.differences.push(...different.slice(0, mostNamed - tally.differences.length));
  if (!repair || different.length === 0) return;
  await writer.mend(different, signal);
  const unmended = await stillDifferent(different, options);
  tally.repaired += different.length - unmended.length;
}

/**
 * Reads both sides again; the index as it is, not as searches show it. What has only come up since is no difference: the change that
 * has made it is on its way.
 */
async function stillDifferent(doubtful: readonly Found[], options: CompareOptions): Promise<Found[]> {
  const { db, collection, message, writer, signal } = options;
  const ids = doubtful.map(({ id }) => id);
  const copies = await writer.stored(ids, signal);
  const found = await db
    .collection(collection, majority)
    .find<Uint8Array>({ [message.id]: { $in: ids } }, { raw: true, signal })
    .map(itemsOf(message))
    .toArray();
  const documents = new Map(found.map((item) => [item.id, item]));
  return doubtful.flatMap((before) => {
    const { id } = before;
    const stored = copies.get(id);
    const copy = stored === undefined || stored.isRemoved ? undefined : stored;
    const now = difference(documents.get(id), copy);
    return now === undefined || isNews(now, before) ? [] : now;
  });
}

function isNews(now: Found, before: Found): boolean {
  // The document has changed again, and its copy has what it was then.
  if (now.kind === "OLDER") return now.indexedRevision >= before.revision;
  return now.kind !== before.kind;
}

import type { Timestamp } from "bson";
import type { Collection, Db, Document } from "mongodb";

import { fail } from "../../errors.ts";
import { documentKey, type SearchCopy, searchCopier } from "../../schema/search-copy.ts";
import { keyField, removedField, type SearchedMessage } from "../../schema/search-mapping.ts";
import type { SearchStore } from "../../stores/search.ts";
import type { BulkItem, BulkResult } from "../../stores/search/bulk.ts";
import { requestMs } from "../../stores/search/requests.ts";
import type { DeadLetters, Refusal } from "./dead-letters.ts";
import { groups, majority, mostDocuments } from "./groups.ts";
import { aboutCopy, indexedCopy, type IndexedCopy } from "./pages.ts";
import { damagedDocument, refusedCopy } from "./refusals.ts";
import { sendCopies } from "./send.ts";
import type { Batch, Changed } from "./tail.ts";
import { removeTombstones } from "./tombstones.ts";
import { epochOf, lastRevision, versionOf } from "./version.ts";

/** What a writer needs. */
export interface WriterOptions {
  readonly message: SearchedMessage;
  /** The database of its collection. */
  readonly db: Db;
  /** Name of its collection. */
  readonly collection: string;
  readonly search: Pick<SearchStore, "client">;
  /** Alias of the index, for people. */
  readonly alias: string;
  /** What is written to; where it vanishes, nothing is made in its place. */
  readonly writes: string;
  readonly deadLetters: Pick<DeadLetters, "record" | "clear">;
  /** Begins a new epoch, after `above`, and returns it. */
  readonly raiseEpoch: (above: number, signal: AbortSignal) => Promise<number>;
  /**
   * Whoever writes beside the one that keeps the index tells so each time before it reads documents; who keeps it looks how often that
   * was. So the latter knows where a copy of what somebody read before may arrive late, though that process is no more.
   */
  readonly beside?: { readonly tell: () => Promise<void> } | { readonly count: () => Promise<number> };
}

/** Brings copies to what their documents are. Every call may be repeated. */
export interface Writer {
  /** The age of the copies that it writes. Only rises. */
  epoch: number;
  /** Writes copies of documents as they were just read, raw. */
  write(documents: readonly Uint8Array[], signal: AbortSignal): Promise<void>;
  /**
   * To be awaited before a batch is begun, and before any later one: begins a new epoch where something that was sent before may arrive
   * yet and would win. Of two states of one revision the server keeps that which comes last, and a tombstone is above all revisions.
   */
  prepare(batch: Pick<Batch, "creates" | "rewrites">, signal: AbortSignal): Promise<void>;
  /**
   * Reads the documents that have changed, where that is needed, and writes or buries their copies. Batches are begun in the order of
   * the changes; nothing else runs beside one that is to be alone. What has become of it is then to be noted.
   */
  bring(batch: Pick<Batch, "changed" | "time">, signal: AbortSignal): Promise<Outcome>;
  /**
   * Notes dead letters, and forgets those that are none any more: to be called in the order of the batches, since the last state of a
   * document is the one that decides.
   */
  note(outcome: Outcome): Promise<void>;
  /** Makes the copies with these ids what their documents are, or buries them where these have gone. Others may write meanwhile. */
  mend(copies: readonly Known[], signal: AbortSignal): Promise<void>;
  /** Buries those of these copies whose documents have gone. Others may write meanwhile. */
  prune(copies: readonly Known[], signal: AbortSignal): Promise<void>;
  /** Removes tombstones of before a time, some thousands at once. */
  tidy(before: Date, signal: AbortSignal): Promise<void>;
  /** What the index holds under some ids. Unlike a search, it sees what was written last. */
  stored(ids: readonly string[], signal: AbortSignal): Promise<ReadonlyMap<string, Stored>>;
}

/** What has become of copies. */
export interface Outcome {
  readonly refused: readonly Refusal[];
  /** Keys of documents whose copies are in the index now, or which have gone. */
  readonly settled: readonly string[];
}

/** A document that has gone. Where its natural id is not known, it is looked for in the index. */
export interface Gone {
  readonly key: string;
  readonly id: string | undefined;
}

/** The same, where it is known. */
export interface Known {
  readonly key: string;
  readonly id: string;
}

/** Rounds in which copies are written again that an older epoch was in the way of, or whose documents have changed meanwhile. */
const mostRounds = 4;
const mostMeanwhile = 10;

const readMs = 60_000;

export function copyWriter(options: WriterOptions): Writer {
  const { message, db, collection: name, search, alias, writes, deadLetters, raiseEpoch, beside } = options;
  const { client } = search;
  const copier = searchCopier(message);
  const collection: Collection = db.collection(name, majority);
  /** Whether something may arrive yet that was sent in this epoch: by who wrote before, or by a request that nobody heard of again. */
  let mayComeLate = true;
  /** Readings beside this that were begun before it was asked last. */
  let besides = 0;
  const tell = async (): Promise<void> => (beside !== undefined && "tell" in beside ? beside.tell() : undefined);

  const raise = async (above: number, signal: AbortSignal): Promise<void> => {
    const epoch = await raiseEpoch(above, signal);
    // Two pieces of work may do so at once.
    writer.epoch = Math.max(writer.epoch, epoch);
  };

  const send = (items: readonly BulkItem[], signal: AbortSignal): Promise<readonly BulkResult[]> =>
    sendCopies(client, writes, items, {
      alias,
      signal,
      mayArrive: () => {
        mayComeLate = true;
      },
    });

  const item = (id: string, version: bigint, json: string): BulkItem => ({
    action: `{"index":{"_id":${JSON.stringify(id)},"version":${version},"version_type":"external_gte"}}`,
    source: Buffer.from(json),
  });

  const stored = async (ids: readonly string[], signal: AbortSignal): Promise<ReadonlyMap<string, Stored>> => {
    const request = { index: writes, ids: [...ids], _source: aboutCopy };
    const { docs } = await client.mget<Record<string, unknown>>(request, { signal, requestTimeout: requestMs });
    return new Map(
      docs.flatMap((found) => {
        if (!("found" in found) || !found.found) return [];
        return [[found._id, { ...indexedCopy(found), epoch: epochOf(found._version ?? 0) }] as const];
      }),
    );
  };

  /** Of a document that has no copy, the next round tells. */
  const copyOf = (document: Uint8Array): SearchCopy[] => {
    try {
      return [copier.fromBson(document)];
    } catch {
      return [];
    }
  };

  const withIds = (ids: readonly string[]): Document => ({ [message.id]: { $in: ids } });

  /** Documents of one epoch: whatever was sent in it before was read before. */
  const read = async (ids: readonly string[], signal: AbortSignal): Promise<Sent> => {
    await tell();
    const { epoch } = writer;
    const reading = { raw: true, signal, maxTimeMS: readMs } as const;
    return { documents: await collection.find<Uint8Array>(withIds(ids), reading).toArray(), epoch };
  };

  /**
   * The index has something newer than what was sent. Either the document has changed again meanwhile, or what is there is of a
   * document that is no more, or of a state that a restore has undone: only then a new epoch lets the copy in. Or somebody has edited
   * the copy, which raises its version alone: what is there is then not believed any more.
   */
  const overtaken = async (
    copies: readonly SearchCopy[],
    { isBelieved, signal }: { readonly isBelieved: boolean; readonly signal: AbortSignal },
  ): Promise<Sent> => {
    const ids = copies.map(({ id }) => id);
    const there = await stored(ids, signal);
    // Read after that: what is older now than what the index had was taken back.
    const sent = await read(ids, signal);
    let above = 0;
    for (const copy of sent.documents.flatMap(copyOf)) {
      const other = there.get(copy.id);
      const isOld = other === undefined || other.epoch < sent.epoch;
      const isSame = other?.epoch === sent.epoch && !other.isRemoved && other.key === copy.key;
      if (isOld || (isBelieved && isSame && other.revision <= copy.revision)) continue;
      above = Math.max(above, other.epoch);
    }
    if (above === 0) return sent;
    await raise(Math.max(above, sent.epoch), signal);
    // Read anew: what has changed since may have been sent in the epoch before.
    return read(ids, signal);
  };

  /** The epoch is that in which the documents were asked for. A later one would put them above what was read after them. */
  const writeAll = async (first: Sent, signal: AbortSignal): Promise<Outcome> => {
    let { documents, epoch } = first;
    const refused: Refusal[] = [];
    const settled: string[] = [];
    for (let round = 1; documents.length > 0; round++) {
      const pairs: { readonly copy: SearchCopy; readonly document: Uint8Array }[] = [];
      for (const document of documents) {
        try {
          pairs.push({ copy: copier.fromBson(document), document });
        } catch (error) {
          refused.push(damagedDocument(document, message, error));
        }
      }
      const items = pairs.map(({ copy: { id, revision, json } }) => item(id, versionOf(epoch, revision), json));
      const results = await send(items, signal);
      const conflicts: SearchCopy[] = [];
      for (const [at, { copy, document }] of pairs.entries()) {
        const result = results[at];
        if (result === undefined) throw new Error("The search server said nothing of a copy");
        if (result.status < 300) settled.push(copy.key);
        else if (result.status === 409) conflicts.push(copy);
        else refused.push(refusedCopy(copy, document, result));
      }
      if (conflicts.length === 0) break;
      if (round === mostRounds) throw tooFast(alias);
      ({ documents, epoch } = await overtaken(conflicts, { isBelieved: round < mostRounds - 1, signal }));
    }
    return { refused, settled };
  };

  const note: Writer["note"] = async ({ refused, settled }) => {
    await deadLetters.record(message.name, refused);
    await deadLetters.clear(message.name, settled);
  };

  const write = async (documents: readonly Uint8Array[], signal: AbortSignal): Promise<void> =>
    note(await writeAll({ documents, epoch: writer.epoch }, signal));

  /** The copies of documents, by their `_id`s as text. */
  const find = async (keys: readonly string[], signal: AbortSignal): Promise<Known[]> => {
    await client.indices.refresh({ index: writes }, { signal, requestTimeout: requestMs });
    const query = {
      bool: { filter: [{ terms: { [keyField]: [...keys] } }], must_not: [{ term: { [removedField]: true } }] },
    };
    const request = { index: writes, query, size: keys.length, _source: [keyField], track_total_hits: false };
    const { hits } = await client.search<Record<string, unknown>>(request, { signal, requestTimeout: requestMs });
    return hits.hits.map(({ _id = "", _source }) => ({ id: _id, key: String(_source?.[keyField]) }));
  };

  /** Which of these is still what the index has under its id: another document may have that id by now. */
  const ofThem = async (gone: readonly Known[], signal: AbortSignal): Promise<Known[]> => {
    if (gone.length === 0) return [];
    const there = await stored(
      gone.map(({ id }) => id),
      signal,
    );
    return gone.filter(({ id, key }) => (there.get(id)?.key ?? key) === key);
  };

  /** Those of these copies whose documents have gone. */
  const goneOf = async (copies: readonly Known[], signal: AbortSignal): Promise<Known[]> => {
    await tell();
    const reading = { raw: true, projection: { _id: 1 }, signal, maxTimeMS: readMs } as const;
    const found = await collection.find<Uint8Array>(withIds(copies.map(({ id }) => id)), reading).toArray();
    const there = new Set(found.map(documentKey));
    return copies.filter(({ key }) => !there.has(key));
  };

  const bury = async (gone: readonly Gone[], signal: AbortSignal): Promise<Outcome> => {
    for (let at = 0; at < gone.length; at += mostDocuments) {
      const part = gone.slice(at, at + mostDocuments);
      const known = part.flatMap(({ id, key }) => (id === undefined ? [] : [{ id, key }]));
      const unknown = part.filter(({ id }) => id === undefined).map(({ key }) => key);
      const now = new Date();
      let left = [...(await ofThem(known, signal)), ...(unknown.length === 0 ? [] : await find(unknown, signal))];
      for (let round = 1; left.length > 0; round++) {
        if (round > mostRounds) throw tooFast(alias);
        const version = versionOf(writer.epoch, lastRevision);
        const items = left.map(({ id, key }) => item(id, version, copier.tombstone(id, key, now)));
        const results = await send(items, signal);
        left = left.filter((_, place) => results[place]?.status === 409);
        if (left.length === 0) break;
        // Only a newer epoch is above a tombstone, and above a version that somebody else has made.
        const there = await stored(
          left.map(({ id }) => id),
          signal,
        );
        await raise(Math.max(writer.epoch, ...Array.from(there.values(), ({ epoch }) => epoch)), signal);
        // Who keeps the index takes the changes one after the other; others may have been overtaken.
        if (beside !== undefined && "tell" in beside) left = await goneOf(left, signal);
      }
    }
    return { refused: [], settled: gone.map(({ key }) => key) };
  };

  /** Those that the changes tell, and the others as they are now. */
  async function* changedDocuments(
    changed: readonly Changed[],
    time: Timestamp | undefined,
    signal: AbortSignal,
  ): AsyncGenerator<Uint8Array> {
    for (const { document } of changed) if (document !== undefined) yield document;
    const ids = changed.filter(({ document }) => document === undefined).map(({ _id }) => _id);
    if (ids.length === 0) return;
    await tell();
    // A member that has just become primary may not have what the stream told of yet.
    await using session = db.client.startSession({ causalConsistency: true });
    if (time !== undefined) session.advanceOperationTime(time);
    yield* collection.find<Uint8Array>(
      { _id: { $in: ids as never[] } },
      { raw: true, signal, session, maxTimeMS: readMs, batchSize: mostDocuments },
    );
  }

  /** Whether somebody beside this has read since it was asked last; to be asked after the changes, which those who read later see. */
  const isBeside = async (): Promise<boolean> => {
    if (beside === undefined || !("count" in beside)) return false;
    const before = besides;
    besides = await beside.count();
    return besides !== before;
  };

  const prepare: Writer["prepare"] = async ({ creates, rewrites }, signal) => {
    const isLate = (creates || rewrites) && (await isBeside());
    if (!isLate && !(rewrites && mayComeLate)) return;
    await raise(writer.epoch, signal);
    mayComeLate = false;
  };

  const bring: Writer["bring"] = async ({ changed, time }, signal) => {
    const { epoch } = writer;
    const there = new Set<string>();
    const outcomes: Outcome[] = [];
    for await (const documents of groups(changedDocuments([...changed.values()], time, signal))) {
      for (const document of documents) there.add(documentKey(document));
      outcomes.push(await writeAll({ documents, epoch }, signal));
    }
    // Of what is not there and was not said to be removed, that is said later.
    const gone = [...changed].flatMap(([key, { isRemoved, id }]) =>
      isRemoved && !there.has(key) ? [{ key, id }] : [],
    );
    outcomes.push(await bury(gone, signal));
    return {
      refused: outcomes.flatMap(({ refused }) => refused),
      settled: outcomes.flatMap(({ settled }) => settled),
    };
  };

  /**
   * Writes documents as they are beside others who write: what changes before its copy is there may have been written by them and
   * overwritten by this, so that it is written again.
   */
  const settle = async (ids: readonly string[], signal: AbortSignal): Promise<void> => {
    const written = new Map<string, Uint8Array>();
    let sent = await read(ids, signal);
    for (let round = 1; sent.documents.length > 0; round++) {
      if (round > mostMeanwhile) throw tooFast(alias);
      await note(await writeAll(sent, signal));
      for (const document of sent.documents) written.set(documentKey(document), document);
      const now = await read(ids, signal);
      const isNews = (document: Uint8Array) => !isEqual(document, written.get(documentKey(document)));
      sent = { ...now, documents: now.documents.filter(isNews) };
    }
  };

  const prune = async (copies: readonly Known[], signal: AbortSignal): Promise<void> => {
    const gone = await goneOf(copies, signal);
    if (gone.length === 0) return;
    await note(await bury(gone, signal));
    // One may have been created between the look at it and its burial.
    await settle(
      gone.map(({ id }) => id),
      signal,
    );
  };

  const mend = async (copies: readonly Known[], signal: AbortSignal): Promise<void> => {
    if (copies.length === 0) return;
    await settle(
      copies.map(({ id }) => id),
      signal,
    );
    await prune(copies, signal);
  };

  const tidy = (before: Date, signal: AbortSignal): Promise<void> =>
    removeTombstones({ client, writes, before, send: (items) => send(items, signal) }, signal);

  const writer: Writer = { epoch: 0, write, prepare, bring, note, mend, prune, tidy, stored };
  return writer;
}

/** What the index holds of a document. */
export interface Stored extends IndexedCopy {
  readonly epoch: number;
}

/** Documents, and the epoch in which they were asked for. */
interface Sent {
  readonly documents: readonly Uint8Array[];
  readonly epoch: number;
}

function isEqual(one: Uint8Array, other: Uint8Array | undefined): boolean {
  return other !== undefined && Buffer.compare(one, other) === 0;
}

function tooFast(alias: string) {
  return fail("STORE_CONFLICT", `Copies in ${alias} change faster than they can be written`, {
    metadata: { store: "search", index: alias },
    retryAfterMs: 1000,
  });
}

import { setTimeout as pause } from "node:timers/promises";

import type { Db, MongoClient } from "mongodb";

import type { Stream } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail } from "../../errors.ts";
import type { StreamWriter } from "../contracts.ts";
import { nameOf } from "./catalog.ts";
import { hasCode, isInterruption, serverCode } from "./errors.ts";
import { idValue } from "./ordered.ts";
import { bytesOf, rawBatches } from "./raw-batches.ts";
import { idOf, sameBytes } from "./raw-bson.ts";

/** Parts are cut at a sample of the `_id`s, of this many for each part. */
const samplesPerPart = 20;

/** How long reading may be interrupted without getting anywhere, in milliseconds. */
const interruptionMs = 60_000;
const retryMs = 250;

/** How often reading may begin anew where it cannot go on in the middle. */
const mostAttempts = 10;

/** A part of a collection: documents from `from` on that come before `to`, in the order of the server's index of `_id`. */
export interface Part {
  readonly from?: unknown;
  readonly to?: unknown;
}

/** What is to be read of a collection. */
export interface Readable {
  readonly database: string;
  readonly collection: string;
  /**
   * How documents are walked through: by the index of `_id`, which can be cut in parts and taken up again in the middle, or in
   * their natural order, which matters in capped collections and is the only one in a time series.
   */
  readonly order: "id" | "natural";
}

/** How a reader goes about it. */
export interface ReadOptions {
  readonly client: MongoClient;
  readonly signal: AbortSignal;
  /** Whether there is replication, and with it majority read concern. */
  readonly replicated: boolean;
  /** Called for each batch, and with negative numbers where documents are read anew. */
  readonly count: (documents: number, bytes: number) => void;
}

/**
 * About `wanted` parts of about equal size, in order. Together they are the whole whatever the types of the `_id`s are: their
 * bounds are places in the index, which has one order for all types.
 */
export async function partsOf(db: Db, { collection, order }: Readable, wanted: number): Promise<Part[]> {
  if (order !== "id" || wanted < 2) return [{}];
  const sampled: Uint8Array[] = [];
  const pipeline = [{ $sample: { size: wanted * samplesPerPart } }, { $project: { _id: 1 } }, { $sort: { _id: 1 } }];
  for await (const document of db.collection(collection).aggregate(pipeline, { raw: true })) {
    // With `raw`, documents are their bytes.
    const id = idOf(document as Uint8Array);
    if (id !== undefined) sampled.push(id);
  }
  const bounds: Uint8Array[] = [];
  for (let index = samplesPerPart; index < sampled.length; index += samplesPerPart) {
    const [bound, last] = [sampled[index], bounds.at(-1)];
    if (bound !== undefined && (last === undefined || !sameBytes(last, bound))) bounds.push(bound);
  }
  const values = bounds.map(idValue);
  return Array.from({ length: values.length + 1 }, (_, index) => ({
    ...(index > 0 && { from: values[index - 1] }),
    ...(index < values.length && { to: values[index] }),
  }));
}

/**
 * Reads a part of a collection and writes its documents as they stand. A cursor that is lost is replaced by one that goes on
 * after the last document. A collection that is not there has no documents. Fails with the server's error where it stays
 * unreadable for a minute, and with `BACKUP_SOURCE_CHANGED` where a capped collection turns over faster than it is read.
 */
export async function readPart(
  readable: Readable,
  part: Part,
  open: () => StreamWriter,
  options: ReadOptions,
): Promise<Stream> {
  for (let attempt = 1; ; attempt++) {
    await using writer = open();
    const copy = new PartWriter(writer, options);
    if (await readThrough(readable, part, copy, options)) return await writer.seal();
    options.count(-copy.records, -copy.bytes);
    if (attempt === mostAttempts) {
      const namespace = nameOf(readable);
      throw fail("BACKUP_SOURCE_CHANGED", `${namespace} changes faster than it can be read`, {
        metadata: { namespace },
      });
    }
  }
}

/** Returns false where the part has to be read from its beginning. */
async function readThrough(readable: Readable, part: Part, copy: PartWriter, options: ReadOptions): Promise<boolean> {
  let failingSince: number | undefined;
  for (;;) {
    const before = copy.records;
    try {
      await readOn(readable, part, copy, options);
      return true;
    } catch (error) {
      if (hasCode(error, serverCode.namespaceNotFound)) return true;
      if (!isInterruption(error)) throw error;
      if (copy.records > before) failingSince = undefined;
      failingSince ??= performance.now();
      if (performance.now() - failingSince > interruptionMs) throw error;
      await pause(retryMs, undefined, { signal: options.signal });
      if (readable.order === "natural" && copy.records > 0) return false;
    }
  }
}

/** Reads with one cursor from where the copy ends. */
async function readOn(readable: Readable, part: Part, copy: PartWriter, options: ReadOptions): Promise<void> {
  const { client, signal } = options;
  signal.throwIfAborted();
  for await (const batch of rawBatches(client.db(readable.database), findCommand(readable, part, copy, options))) {
    signal.throwIfAborted();
    await copy.write(batch);
  }
}

function findCommand({ collection, order }: Readable, part: Part, copy: PartWriter, { replicated }: ReadOptions) {
  const from = copy.lastId === undefined ? part.from : idValue(copy.lastId);
  const { to } = part;
  return {
    find: collection,
    ...(order === "id" && {
      hint: { _id: 1 },
      // Several shards keep to it only where they are asked to, and reading goes on after the last one that came.
      sort: { _id: 1 },
      // Not $gte and $lt: these know values of one type only.
      ...(from !== undefined && { min: { _id: from } }),
      ...(to !== undefined && { max: { _id: to } }),
    }),
    // What only one member has may be rolled back, and then no change event tells of it.
    ...(replicated && { readConcern: { level: "majority" } }),
  };
}

/** Writes documents and knows how far it has come. */
class PartWriter {
  records = 0;
  bytes = 0;
  /** `_id` of the last document. */
  lastId: Uint8Array | undefined;
  readonly #writer: StreamWriter;
  readonly #count: ReadOptions["count"];

  constructor(writer: StreamWriter, { count }: ReadOptions) {
    this.#writer = writer;
    this.#count = count;
  }

  async write(batch: readonly Uint8Array[]): Promise<void> {
    const [first] = batch;
    const firstId = first === undefined ? undefined : idOf(first);
    // A new cursor begins with the document that was the last one, unless that has gone.
    const repeated = this.lastId !== undefined && firstId !== undefined && sameBytes(this.lastId, firstId);
    const documents = repeated ? batch.slice(1) : batch;
    const last = documents.at(-1);
    if (last === undefined) return;
    const bytes = bytesOf(documents);
    // Copied: the batch that it is a part of shall not stay in memory.
    const id = idOf(last);
    await this.#writer.write(documents);
    this.lastId = id === undefined ? undefined : Uint8Array.from(id);
    this.records += documents.length;
    this.bytes += bytes;
    this.#count(documents.length, bytes);
  }
}

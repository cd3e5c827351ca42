import { fromBinary } from "@bufbuild/protobuf";

import { SearchRecordSchema, type Stream } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail } from "../../errors.ts";
import type { SearchStore } from "../../stores/search.ts";
import { bulkBatches } from "../../stores/search/bulk.ts";
import { JsonScan } from "../../stores/search/json-scan.ts";
import { PointInTime } from "../../stores/search/point-in-time.ts";
import {
  pathOf,
  property,
  rawRequest,
  refusalOf,
  requestMs,
  statusOf,
  withPatience,
} from "../../stores/search/requests.ts";
import { readSlice, sliceCount } from "../../stores/search/slice-reader.ts";
import type { RecordSource } from "../contracts.ts";
import { type Outcome, writeDocuments } from "./bulk.ts";
import { haveSameFields } from "./definition.ts";
import { type Document, DocumentLedger } from "./document-ledger.ts";
import type { RestoredIndex } from "./restored-index.ts";
import { failures } from "./selected-indices.ts";

/** What an index is restored with. */
export interface IndexRestoreOptions {
  readonly search: SearchStore;
  readonly source: RecordSource;
  readonly signal: AbortSignal;
  /** Told of documents that are done. */
  readonly note: (documents: number, bytes: number) => void;
}

/** A document of the backup and the place of its record. */
interface PlacedDocument extends Document {
  readonly index: number;
  readonly bytes: number;
}

/**
 * Makes an index that is not there, empty and without aliases, whatever templates of the server say. Fails with
 * `RESTORE_REFUSED` where the server does not take its definition.
 */
export async function makeIndex(restored: RestoredIndex, { search, signal }: IndexRestoreOptions): Promise<void> {
  const { placement, definition, unit } = restored;
  const path = pathOf(placement.place);
  restored.isInterim = true;
  try {
    const body = definition.creation;
    await withPatience(signal, () =>
      rawRequest(search.client, { method: "PUT", path, body, name: "indices.create" }, { signal }),
    );
  } catch (error) {
    // It is another's, made since the restore was prepared.
    if (refusalOf(error).type === "resource_already_exists_exception") restored.isInterim = false;
    if (statusOf(error) !== 400) throw error;
    throw refusedDefinition(unit.name, error);
  }
  const limits = { signal, requestTimeout: requestMs };
  const added = Object.keys(
    (await search.client.indices.getAlias({ index: placement.place }, limits))[placement.place]?.aliases ?? {},
  );
  if (added.length > 0) await search.client.indices.deleteAlias({ index: placement.place, name: added }, limits);
}

/** What the server says of a definition speaks of fields and settings, not of documents. */
function refusedDefinition(index: string, error: unknown): Error {
  const { type, reason } = refusalOf(error);
  return fail("RESTORE_REFUSED", `The search server does not take the definition of the index ${index}: ${type}`, {
    metadata: { store: "search", index, error_type: type, error: reason.slice(0, 500) },
    cause: error,
  });
}

/** Writes the documents of one stream. */
export async function loadStream(
  restored: RestoredIndex,
  stream: Stream,
  { search, source, signal, note }: IndexRestoreOptions,
): Promise<void> {
  const { placement } = restored;
  const skipped = restored.skippedRecords.get(stream);
  for await (const documents of documentsOf(source, stream, signal)) {
    const outcomes = await write(restored, documents, search, signal);
    let bytes = 0;
    for (const [at, document] of documents.entries()) {
      bytes += document.bytes;
      restored.ledger.add(document);
      if (outcomes[at] === "written") restored.written++;
      else if (placement.way === "skip") {
        restored.skipped++;
        skipped?.add(document.index);
      } else
        throw fail("RESTORE_CONFLICT", `Others write into the index ${placement.place}`, {
          metadata: { store: "search", conflicts: placement.place, conflict_count: "1" },
        });
    }
    note(documents.length, bytes);
  }
}

async function write(
  { placement: { way, place } }: RestoredIndex,
  documents: readonly PlacedDocument[],
  { client }: SearchStore,
  signal: AbortSignal,
): Promise<Outcome[]> {
  if (way === "skip") return writeDocuments(client, place, documents, { mode: "creating", signal });
  const outcomes = await writeDocuments(client, place, documents, { mode: "versioned", signal });
  if (way !== "overwrite") return outcomes;
  // Where a version is there that is as high, the one of the backup cannot be kept.
  const newer = [...documents.keys()].filter((at) => outcomes[at] === "taken");
  const replacing = newer.flatMap((at) => documents[at] ?? []);
  await writeDocuments(client, place, replacing, { mode: "overwriting", signal });
  return documents.map(() => "written");
}

/** The documents of a stream, in batches. */
async function* documentsOf(
  source: RecordSource,
  stream: Stream,
  signal: AbortSignal,
): AsyncGenerator<readonly PlacedDocument[]> {
  let index = 0;
  for await (const records of source.records(stream, signal)) {
    const documents = records.map((record) => ({
      ...fromBinary(SearchRecordSchema, record),
      index: index++,
      bytes: record.byteLength,
    }));
    yield* bulkBatches(documents);
  }
}

/** Ends the loading: everything can be found, and the index has the settings of the backup. */
export async function finishLoading(restored: RestoredIndex, { search, signal }: IndexRestoreOptions): Promise<void> {
  const { placement, definition } = restored;
  const limits = { signal, requestTimeout: requestMs };
  await withPatience(signal, () => search.client.indices.refresh({ index: placement.place }, limits));
  if (!restored.merges) await putSettings(restored, definition.afterLoading, { search, signal });
  restored.stage = "loaded";
}

export async function putSettings(
  { placement, unit }: RestoredIndex,
  settings: string,
  { search, signal }: Pick<IndexRestoreOptions, "search" | "signal">,
): Promise<void> {
  const path = `${pathOf(placement.place)}/_settings`;
  try {
    await rawRequest(search.client, { method: "PUT", path, body: settings, name: "indices.put_settings" }, { signal });
  } catch (error) {
    if (statusOf(error) !== 400) throw error;
    throw refusedDefinition(unit.name, error);
  }
}

/** Compares an index that was made with the backup: fields, and all documents to the last byte. */
export async function compareWhole(
  restored: RestoredIndex,
  { search, signal, note }: IndexRestoreOptions,
): Promise<void> {
  const { place } = restored.placement;
  const found = new DocumentLedger();
  const { count } = await search.client.count({ index: place }, { signal, requestTimeout: requestMs });
  await using pointInTime = await PointInTime.open(search, place, { signal, failures });
  const max = sliceCount(count, 1);
  for (let id = 0; id < max; id++) {
    for await (const hits of readSlice(pointInTime, { slice: { id, max }, mostHits: 1000 })) {
      let bytes = 0;
      for (const hit of hits) {
        found.add(hit);
        bytes += hit.source.byteLength;
      }
      note(hits.length, bytes);
    }
  }
  restored.equalDocuments = restored.ledger.equalDocuments(found);
  if (!restored.ledger.equals(found))
    restored.remark = `${found.documents} documents are there, not all as in the backup`;
  else if (!(await hasFields(restored, { search, signal }))) restored.remark = "It has other fields than in the backup";
  restored.isEqual = restored.remark === "";
  restored.stage = "compared";
}

async function hasFields(
  { placement: { place }, definition }: RestoredIndex,
  { search, signal }: Pick<IndexRestoreOptions, "search" | "signal">,
): Promise<boolean> {
  const path = `${pathOf(place)}/_mapping`;
  const answer = await rawRequest(search.client, { method: "GET", path, name: "indices.get_mapping" }, { signal });
  const mappings = property(property(JSON.parse(answer.toString()), place), "mappings");
  return haveSameFields(mappings, definition.mappings);
}

/** Compares each document of one stream that was put among others with what is there: routing and every byte of its source. */
export async function compareMerged(
  restored: RestoredIndex,
  stream: Stream,
  { search, source, signal, note }: IndexRestoreOptions,
): Promise<void> {
  const skipped = restored.skippedRecords.get(stream);
  for await (const documents of documentsOf(source, stream, signal)) {
    const compared = documents.filter(({ index }) => skipped?.has(index) !== true);
    restored.equalDocuments += await countEqual(restored.placement.place, compared, search, signal);
    note(
      documents.length,
      documents.reduce((sum, { bytes }) => sum + bytes, 0),
    );
  }
}

async function countEqual(
  place: string,
  documents: readonly Document[],
  { client }: SearchStore,
  signal: AbortSignal,
): Promise<number> {
  if (documents.length === 0) return 0;
  const wanted = documents.map(({ id, routing }) => (routing === "" ? { _id: id } : { _id: id, routing }));
  const body = JSON.stringify({ docs: wanted });
  const path = `${pathOf(place)}/_mget`;
  const answer = await withPatience(signal, () =>
    rawRequest(client, { method: "POST", path, body, name: "mget" }, { signal }),
  );
  const scan = new JsonScan(answer);
  const found = scan.member(scan.whole(), "docs");
  let equal = 0;
  let at = 0;
  for (const document of found === undefined ? [] : scan.elements(found)) {
    const source = scan.member(document, "_source");
    const expected = documents[at++]?.source;
    if (source !== undefined && expected !== undefined && Buffer.compare(scan.slice(source), expected) === 0) equal++;
  }
  return equal;
}

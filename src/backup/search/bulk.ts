import type { Client } from "@elastic/elasticsearch";

import { fail } from "../../errors.ts";
import type { Document } from "./document-ledger.ts";
import { pathOf, pauseBefore, property, rawRequest, refusalOf, statusOf, withPatience } from "./requests.ts";

/**
 * How documents are written: with the version that they had, which the server takes where it has none as high; whatever is
 * there; or only where nothing is there.
 */
export type WriteMode = "versioned" | "overwriting" | "creating";

/** What became of a document: `taken` where something is there that the mode leaves alone. */
export type Outcome = "written" | "taken";

/** Most of what is sent at once; one document may be more. */
const batchBytes = 4 * 1024 * 1024;
const batchDocuments = 2000;

/** Documents in batches that the server takes at once. */
export function* bulkBatches<T extends { readonly source: Uint8Array }>(documents: Iterable<T>): Generator<T[]> {
  let batch: T[] = [];
  let bytes = 0;
  for (const document of documents) {
    if (batch.length === batchDocuments || (batch.length > 0 && bytes + document.source.byteLength > batchBytes)) {
      yield batch;
      [batch, bytes] = [[], 0];
    }
    batch.push(document);
    bytes += document.source.byteLength;
  }
  if (batch.length > 0) yield batch;
}

/**
 * Writes documents as they are, byte for byte. Tries again for half a minute what the server has no room for. Fails with
 * `RESTORE_REFUSED`, which names the index and the kind of error, where it refuses a document.
 */
export async function writeDocuments(
  client: Client,
  index: string,
  documents: readonly Document[],
  { mode, signal }: { readonly mode: WriteMode; readonly signal: AbortSignal },
): Promise<Outcome[]> {
  const outcomes: Outcome[] = documents.map(() => "written");
  // In NDJSON a line ends a document; one that has several lines is sent alone.
  const many = [...documents.keys()].filter((at) => documents[at]?.source.includes(0x0a) === false);
  const single = [...documents.keys()].filter((at) => documents[at]?.source.includes(0x0a) === true);
  let left = many;
  let repeated = false;
  for (let attempt = 1; left.length > 0; attempt++) {
    const lines = linesOf(
      left.flatMap((at) => documents[at] ?? []),
      mode,
    );
    const statuses = await withPatience(signal, (again) => {
      repeated ||= again;
      return bulk(client, index, lines, { signal, expected: left.length });
    });
    const again: number[] = [];
    for (const [place, at] of left.entries()) {
      const { status, type } = statuses[place] ?? { status: 0, type: "" };
      if (status === 429 || status === 503) again.push(at);
      // It may have been written by a try that nobody heard of.
      else if (status === 409) outcomes[at] = repeated && mode === "versioned" ? "written" : "taken";
      else if (status < 200 || status >= 300) throw refusedDocument(index, type);
    }
    left = again;
    if (left.length > 0 && !(await pauseBefore(attempt, signal))) throw busy(index);
  }
  for (const at of single) {
    const document = documents[at];
    if (document !== undefined) outcomes[at] = await writeOne(client, index, document, { mode, signal });
  }
  return outcomes;
}

function linesOf(documents: readonly Document[], mode: WriteMode): Buffer {
  const newline = Buffer.from("\n");
  return Buffer.concat(
    documents.flatMap((document) => [Buffer.from(`${actionOf(document, mode)}\n`), document.source, newline]),
  );
}

function actionOf({ id, routing, version }: Document, mode: WriteMode): string {
  const fields = [`"_id":${JSON.stringify(id)}`];
  if (routing !== "") fields.push(`"routing":${JSON.stringify(routing)}`);
  if (mode === "versioned") fields.push(`"version":${version},"version_type":"external"`);
  return `{"${mode === "creating" ? "create" : "index"}":{${fields.join(",")}}}`;
}

async function bulk(
  client: Client,
  index: string,
  lines: Buffer,
  { signal, expected }: { readonly signal: AbortSignal; readonly expected: number },
): Promise<{ status: number; type: string }[]> {
  // Documents are as a pipeline left them; none shall change them again. Of errors the type, which says nothing of a document.
  const querystring = { pipeline: "_none", filter_path: "items.*.status,items.*.error.type" };
  const request = { method: "POST", path: `${pathOf(index)}/_bulk`, querystring, lines, name: "bulk" } as const;
  const answer: unknown = JSON.parse((await rawRequest(client, request, { signal })).toString());
  const items = property(answer, "items");
  if (!Array.isArray(items) || items.length !== expected)
    throw new Error("The search server answered to other documents");
  return items.map((item: unknown) => {
    const result = property(item, "index") ?? property(item, "create");
    const type = property(property(result, "error"), "type");
    return { status: Number(property(result, "status")), type: typeof type === "string" ? type : "" };
  });
}

async function writeOne(
  client: Client,
  index: string,
  document: Document,
  { mode, signal }: { readonly mode: WriteMode; readonly signal: AbortSignal },
): Promise<Outcome> {
  const { id, routing, version, source } = document;
  const request = {
    method: "PUT",
    path: pathOf(index, mode === "creating" ? "_create" : "_doc", id),
    querystring: {
      pipeline: "_none",
      ...(routing !== "" && { routing }),
      ...(mode === "versioned" && { version: String(version), version_type: "external" }),
    },
    body: Buffer.from(source.buffer, source.byteOffset, source.byteLength),
    name: "index",
  } as const;
  let mayBeThere = false;
  try {
    await withPatience(signal, (again) => {
      mayBeThere = again && mode === "versioned";
      return rawRequest(client, request, { signal });
    });
  } catch (error) {
    if (statusOf(error) === 409) return mayBeThere ? "written" : "taken";
    const status = statusOf(error) ?? 0;
    if (status >= 400 && status < 429) throw refusedDocument(index, refusalOf(error).type);
    throw error;
  }
  return "written";
}

function refusedDocument(index: string, type: string): Error {
  return fail("RESTORE_REFUSED", `The search server refused a document of the index ${index}: ${type}`, {
    metadata: { store: "search", index, error_type: type },
  });
}

function busy(index: string): Error {
  return fail("STORE_UNAVAILABLE", `The search server has no room for documents of the index ${index}`, {
    metadata: { store: "search", index },
    retryAfterMs: 5000,
  });
}

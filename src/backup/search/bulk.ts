import type { Client } from "@elastic/elasticsearch";

import { fail } from "../../errors.ts";
import { bulk } from "../../stores/search/bulk.ts";
import { pathOf, rawRequest, refusalOf, statusOf, withPatience } from "../../stores/search/requests.ts";
import type { Document } from "./document-ledger.ts";

/**
 * How documents are written: with the version that they had, which the server takes where it has none as high; whatever is
 * there; or only where nothing is there.
 */
export type WriteMode = "versioned" | "overwriting" | "creating";

/** What became of a document: `taken` where something is there that the mode leaves alone. */
export type Outcome = "written" | "taken";

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
  const sent = many.flatMap((at) => documents[at] ?? []);
  const items = sent.map((document) => ({ action: actionOf(document, mode), source: document.source }));
  for (const [place, { status, type, repeated }] of (await bulk(client, index, items, { signal })).entries()) {
    // It may have been written by a try that nobody heard of.
    if (status === 409) outcomes[many[place] ?? 0] = repeated && mode === "versioned" ? "written" : "taken";
    else if (status < 200 || status >= 300) throw refusedDocument(index, type);
  }
  for (const at of single) {
    const document = documents[at];
    if (document !== undefined) outcomes[at] = await writeOne(client, index, document, { mode, signal });
  }
  return outcomes;
}

function actionOf({ id, routing, version }: Document, mode: WriteMode): string {
  const fields = [`"_id":${JSON.stringify(id)}`];
  if (routing !== "") fields.push(`"routing":${JSON.stringify(routing)}`);
  if (mode === "versioned") fields.push(`"version":${version},"version_type":"external"`);
  return `{"${mode === "creating" ? "create" : "index"}":{${fields.join(",")}}}`;
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

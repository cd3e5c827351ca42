import { calculateObjectSize, type Document } from "bson";
import type { ChangeStreamDocument } from "mongodb";

import { documentBytes } from "../../schema/document-bytes.ts";
import { purgedIdKey } from "../../schema/entity.ts";
import { type Timed, tokenText } from "./position.ts";

/** One change of a document, as a change stream tells it. */
export interface Change extends Timed {
  readonly kind: "created" | "changed";
  readonly id: string;
  readonly revision: bigint;
  /** What is known of the document at this revision: itself, or a later state with the fields that this change has set. */
  readonly known: Document;
  /**
   * The document at this revision, as raw BSON. Undefined where it had been changed again before the server looked it up:
   * another change follows, which has it.
   */
  readonly document: Uint8Array | undefined;
  /** Top fields that were changed; undefined where any may have been. */
  readonly touched: ReadonlySet<string> | undefined;
  /** The server's token to resume after it. */
  readonly token: Document;
  /** Size of what is known of the document. */
  readonly bytes: number;
}

/** What an event of a change stream means for those who watch the documents. */
export type Meaning = { readonly change: Change } | "nothing" | "over";

/**
 * Reads an event. Changes that leave `revision` as it is are nothing, and so is the removal of a document for good: it was
 * marked and deleted before, which was a change. `over` means that the collection is no longer the one that was watched.
 */
export function meaningOf(event: ChangeStreamDocument, idName: string): Meaning {
  switch (event.operationType) {
    case "insert":
    case "replace": {
      const { fullDocument } = event;
      const kind = event.operationType === "insert" ? "created" : "changed";
      const { revision } = fullDocument;
      return changeOf(event, { kind, revision, known: fullDocument, isWhole: true, touched: undefined }, idName);
    }
    case "update": {
      const { fullDocument, updateDescription } = event;
      const { updatedFields = {}, removedFields = [], truncatedArrays = [] } = updateDescription;
      const revision: unknown = updatedFields["revision"];
      if (revision === undefined) return "nothing";
      const names = [...Object.keys(updatedFields), ...removedFields, ...truncatedArrays.map(({ field }) => field)];
      const touched = new Set(names.map((name) => name.split(".", 1)[0] ?? ""));
      if (fullDocument === undefined || fullDocument === null) {
        // It is gone for good. The change that marked it for that deleted it, and says which it was.
        const known = { ...asItWas({}, updatedFields, []), [idName]: updatedFields[purgedIdKey] as unknown };
        return changeOf(event, { kind: "changed", revision, known, isWhole: false, touched }, idName);
      }
      const isWhole = numberOf(fullDocument["revision"]) === numberOf(revision);
      const known = isWhole ? fullDocument : asItWas(fullDocument, updatedFields, removedFields);
      return changeOf(event, { kind: "changed", revision, known, isWhole, touched }, idName);
    }
    case "drop":
    case "rename":
    case "dropDatabase":
    case "invalidate":
      return "over";
    default:
      return "nothing";
  }
}

interface Found extends Pick<Change, "kind" | "known" | "touched"> {
  readonly revision: unknown;
  readonly isWhole: boolean;
}

function changeOf(event: ChangeStreamDocument, found: Found, idName: string): Meaning {
  const { kind, known, isWhole, touched } = found;
  const id: unknown = known[idName];
  const revision = numberOf(found.revision);
  // Another program's document, without what all documents of the service have.
  if (typeof id !== "string" || revision === undefined) return "nothing";
  const token = event._id as Document; // as all resume tokens
  const time = event.clusterTime?.toBigInt() ?? 0n;
  const document = isWhole ? documentBytes(known) : undefined;
  // Fields of two states together may be more than a document can have.
  const bytes = document?.byteLength ?? calculateObjectSize(known);
  return { change: { kind, id, revision, known, document, touched, token, text: tokenText(token), time, bytes } };
}

/** A later state, set back as far as one change says how the document was. */
function asItWas(later: Document, set: Document, removed: readonly string[]): Document {
  const document: Document = { ...later };
  // Of a field that was changed within, the later value is all that is known.
  for (const [name, value] of Object.entries(set)) if (!name.includes(".")) document[name] = value;
  for (const name of removed) if (!name.includes(".")) delete document[name];
  return document;
}

function numberOf(value: unknown): bigint | undefined {
  if (typeof value === "bigint") return value;
  return typeof value === "number" && Number.isSafeInteger(value) ? BigInt(value) : undefined;
}

import { applyDelta } from "./delta.ts";
import {
  bsonType,
  documentOf,
  elementsOf,
  idOf,
  int32Element,
  numberValue,
  type RawElement,
  rawElement,
  textElement,
  textValue,
  timestampElement,
  timestampValue,
  valueBytes,
  withIdInFront,
} from "./raw-bson.ts";

/** How a document was changed. */
export type ChangeOperation = "insert" | "replace" | "update" | "delete";

/** One change of one document, as it stands in a backup. `docs/backup-format-mongodb.md` describes its bytes. */
export interface DocumentChange {
  /** `MongodbCollection.number`. */
  readonly collection: number;
  readonly time: bigint;
  readonly operation: ChangeOperation;
  /** What `idOf` returns for the document. */
  readonly id: Uint8Array;
  /** The document after an insert or a replacement, the `updateDescription` of an update. */
  readonly content: Uint8Array | undefined;
}

/** What a change event says, its values as bytes. */
export interface ChangeEvent {
  readonly operation: string;
  readonly time: bigint;
  readonly database: string;
  readonly collection: string;
  /** Where a renamed collection went. */
  readonly to: { readonly database: string; readonly collection: string } | undefined;
  readonly namespaceType: string | undefined;
  /** What `idOf` returns for the document. */
  readonly id: Uint8Array | undefined;
  readonly token: Uint8Array;
  /** The elements that a record takes over as they are. */
  readonly raw: ReadonlyMap<string, Uint8Array>;
}

const operations = new Set<string>(["insert", "replace", "update", "delete"] satisfies ChangeOperation[]);

/** Whether an event is about a document rather than about a collection or a database. */
export function isDocumentChange({ operation }: ChangeEvent): boolean {
  return operations.has(operation);
}

/** Reads an event of a change stream. */
export function changeEventOf(event: Uint8Array): ChangeEvent {
  const raw = new Map<string, Uint8Array>();
  let [operation, time, namespaceType]: [string, bigint, string | undefined] = ["", 0n, undefined];
  let ns = { database: "", collection: "" };
  let to: ChangeEvent["to"];
  let id: Uint8Array | undefined;
  let token: Uint8Array | undefined;
  for (const element of elementsOf(event)) {
    switch (element.name) {
      case "_id":
        token = valueBytes(event, element);
        break;
      case "operationType":
        operation = textValue(event, element);
        break;
      case "clusterTime":
        time = timestampValue(event, element);
        break;
      case "ns":
        ns = namespaceOf(valueBytes(event, element));
        break;
      case "to":
        to = namespaceOf(valueBytes(event, element));
        break;
      case "nsType":
        namespaceType = textValue(event, element);
        break;
      case "documentKey":
        id = idOf(valueBytes(event, element));
        break;
      default:
        raw.set(element.name, event.subarray(element.start, element.end));
    }
  }
  if (token === undefined || time === 0n) throw new Error("A change event has no time or no resume token");
  return { operation, time, ...ns, to, namespaceType, id, token, raw };
}

function namespaceOf(document: Uint8Array): { database: string; collection: string } {
  let [database, collection] = ["", ""];
  for (const element of elementsOf(document)) {
    if (element.name === "db") database = textValue(document, element);
    if (element.name === "coll") collection = textValue(document, element);
  }
  return { database, collection };
}

/** The parts of an event that was too large for one, put together again. Undefined until the last part has come. */
export class EventParts {
  #elements: Uint8Array[] = [];

  add(event: Uint8Array): Uint8Array | undefined {
    const part = partOf(event);
    if (part === undefined) return event;
    const last = part.number === part.count;
    for (const element of elementsOf(event)) {
      // Each part has a token of its own; that of the last one stands for the whole event.
      if (element.name === "splitEvent" || (element.name === "_id" && !last)) continue;
      this.#elements.push(event.subarray(element.start, element.end));
    }
    if (!last) return undefined;
    const whole = documentOf(this.#elements);
    this.#elements = [];
    return whole;
  }

  /** Forgets what has come of an event; after a resumption it comes again. */
  clear(): void {
    this.#elements = [];
  }
}

function partOf(event: Uint8Array): { number: number; count: number } | undefined {
  for (const element of elementsOf(event)) {
    if (element.name !== "splitEvent") continue;
    const part = valueBytes(event, element);
    const numbers = new Map(Array.from(elementsOf(part), (each) => [each.name, numberValue(part, each)]));
    return { number: numbers.get("fragment") ?? 0, count: numbers.get("of") ?? 0 };
  }
  return undefined;
}

/** Elements of an event that tell which transaction it was part of. */
const transactionElements = ["lsid", "txnNumber"] as const;

/** The record of a change to a document of the collection with that number. */
export function documentRecord(event: ChangeEvent, collection: number): Buffer {
  const { id, raw } = event;
  if (id === undefined) throw new Error("A change of a document does not say which one");
  const elements = [
    textElement("operation", event.operation),
    timestampElement("time", event.time),
    int32Element("collection", collection),
    id,
  ];
  for (const name of ["fullDocument", "updateDescription", ...transactionElements]) {
    const element = raw.get(name);
    if (element !== undefined) elements.push(element);
  }
  if (event.operation === "update" ? !raw.has("updateDescription") : needsDocument(event) && !raw.has("fullDocument")) {
    throw new Error(`A change event of kind ${event.operation} has no content`);
  }
  return documentOf(elements);
}

/** A record that says what a document is at a time: as if it had been replaced or deleted then. */
export function stateRecord(
  collection: number,
  { time, id, document }: { readonly time: bigint; readonly id: Uint8Array; readonly document: Uint8Array | undefined },
): Buffer {
  return documentOf([
    textElement("operation", (document === undefined ? "delete" : "replace") satisfies ChangeOperation),
    timestampElement("time", time),
    int32Element("collection", collection),
    id,
    ...(document === undefined ? [] : [rawElement(bsonType.document, "fullDocument", document)]),
  ]);
}

function needsDocument({ operation }: ChangeEvent): boolean {
  return operation === "insert" || operation === "replace";
}

/** The record of anything else that happened: collections made, renamed, dropped, altered. */
export function otherRecord(event: ChangeEvent): Buffer {
  const ns = (database: string, collection: string): Buffer =>
    documentOf([textElement("db", database), ...(collection === "" ? [] : [textElement("coll", collection)])]);
  return documentOf([
    textElement("operation", event.operation),
    timestampElement("time", event.time),
    rawElement(bsonType.document, "ns", ns(event.database, event.collection)),
    ...(event.to === undefined
      ? []
      : [rawElement(bsonType.document, "to", ns(event.to.database, event.to.collection))]),
    ...(event.namespaceType === undefined ? [] : [textElement("nsType", event.namespaceType)]),
    ...event.raw.values(),
  ]);
}

/** Reads a record; undefined for one that is about no document. */
export function documentChangeOf(record: Uint8Array): DocumentChange | undefined {
  let [operation, time, collection] = ["", 0n, 0];
  let id: Uint8Array | undefined;
  let content: Uint8Array | undefined;
  for (const element of elementsOf(record)) {
    if (element.name === "operation") operation = textValue(record, element);
    else if (element.name === "time") time = timestampValue(record, element);
    else if (element.name === "collection") collection = numberValue(record, element) ?? 0;
    else if (element.name === "_id") id = record.subarray(element.start, element.end);
    else if (element.name === "fullDocument" || element.name === "updateDescription")
      content = contentOf(record, element);
  }
  if (!isDocumentOperation(operation) || id === undefined) return undefined;
  return { collection, time, operation, id, content };
}

function contentOf(record: Uint8Array, element: RawElement): Uint8Array | undefined {
  return element.type === bsonType.document ? valueBytes(record, element) : undefined;
}

function isDocumentOperation(operation: string): operation is ChangeOperation {
  return operations.has(operation);
}

/**
 * What a document is after a change, `undefined` standing for none. A change that finds no document to update leaves none: the
 * document was read after it had been deleted, and the deletion follows.
 */
export function changed(document: Uint8Array | undefined, change: DocumentChange): Uint8Array | undefined {
  switch (change.operation) {
    case "insert":
    case "replace":
      return change.content === undefined ? undefined : withIdInFront(change.content);
    case "delete":
      return undefined;
    case "update":
      if (document === undefined || change.content === undefined) return document;
      return applyDelta(document, change.content);
    default:
      return change.operation satisfies never;
  }
}

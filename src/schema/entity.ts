import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import type { FieldMask } from "@bufbuild/protobuf/wkt";
import type { ConnectError, HandlerContext } from "@connectrpc/connect";
import type { Document } from "bson";
import type { Collection, Db, Filter } from "mongodb";

import { auditApplied, auditCarrier, auditKey, auditStage, type Carrier } from "./audited-call.ts";
import { stringIn } from "./bson-reader.ts";
import { cancellable, deadlineOf } from "./call-options.ts";
import { collectionOf } from "./collection.ts";
import {
  createdBefore,
  createManyOnce,
  createOnce,
  type Created,
  duplicateKey,
  type NewDocument,
  type RequestMark,
} from "./create-once.ts";
import { documentBytes } from "./document-bytes.ts";
import { type ListCall, listDocuments, type Page } from "./document-list.ts";
import { entityRefusals, type Named } from "./entity-refusals.ts";
import { matching, sum } from "./expressions.ts";
import { maskedChange, maskedPaths, valueAt } from "./field-mask.ts";
import type { PageTokens } from "./page-tokens.ts";
import type { StateMachine } from "./state-machine.ts";
import { etagOf } from "./stored-field.ts";

/** When a document was marked to be removed for good: parts of it may be gone, so that it cannot be undeleted. */
export const purgeKey = "_purge";

/** Set with the mark: the id of the document. Who follows changes learns from it whose mark it is, though it is gone by then. */
export const purgedIdKey = "_purge_id";

/** Entities of one kind. */
export interface EntityOptions extends Named {
  readonly db: Db;
  /** Its message says where it is stored. Must have `created_at`, `updated_at`, `deleted_at` and `revision`. */
  readonly schema: DescMessage;
  /** Sees to the collection of a message; a writer waits for it. */
  readonly ready: (schema: DescMessage) => Promise<void>;
  readonly pageTokens: () => Promise<PageTokens>;
}

/** A change of one document. */
export interface Change {
  /** Stages of an update pipeline: the store computes what is stored, so that two changes at once both count. */
  readonly stages: readonly Document[];
  /** What the document must be besides having the id; without it, live. */
  readonly filter?: Filter<Document>;
  /** Stored names of the fields that the caller chose to set. */
  readonly fields?: readonly string[];
  readonly now?: Date;
}

/** A step of one document from one state to another. */
export interface Step {
  readonly machine: StateMachine;
  /** The state to go to, by its number. */
  readonly to: number;
  /** Sets more in the same statement, to expressions. */
  readonly set?: Document;
  /** What the document must be besides live and in a state that the step may start from. */
  readonly filter?: Filter<Document>;
  readonly etag?: string;
  readonly now?: Date;
}

/** A new document with its times, its first revision and the record of the call; and the carrier of that, where there is one. */
export interface Made {
  readonly stored: Document;
  readonly carrier?: Carrier;
}

/** What an entity reads of a call. */
type Context = Pick<HandlerContext, "signal" | "timeoutMs" | "values">;

/**
 * Reads and writes the documents of one message by the rules that all entities share: revision and etag, soft deletion, unique
 * keys, idempotent creation, keyset paging, a record for the audit log in every write. Documents come and go as raw BSON.
 */
export interface Entity {
  readonly collection: Collection;
  /** A filter for one that is not deleted. */
  live(id: string): Document;
  /** The one that a filter finds; null where there is none. */
  find(filter: Filter<Document>, context: Context): Promise<Uint8Array | null>;
  /** The same; fails with the reason for not found, naming `about`, stored names with their values. */
  get(filter: Filter<Document>, context: Context, about: Record<string, string>): Promise<Uint8Array>;
  notFound(about: Record<string, string>): ConnectError;
  /** The refusal of a key that another has; metadata `field`. */
  taken(field: string): ConnectError;
  /** Several live ones in the order of their ids, and the ids that there are not. */
  batch(ids: readonly string[], context: Context): Promise<{ documents: Uint8Array[]; missing: string[] }>;
  /** What a call with the same mark has created before, as it is now; null where there is none. Fails with `REQUEST_ID_REUSED`. */
  createdBefore(mark: RequestMark | undefined, context: Context): Promise<Uint8Array | null>;
  /** Stores a new one, with its times and first revision. Fails with the reason for taken keys, metadata `field`. */
  insert(document: Document, context: Context, mark?: RequestMark): Promise<Created>;
  /**
   * Stores several new ones in one statement, each with a record of its own. Returns for each, in their order, why `insert`
   * would have failed; undefined where it is stored. Fails itself where that is not known.
   */
  insertMany(items: readonly NewDocument[], context: Context): Promise<readonly (ConnectError | undefined)[]>;
  /** What `insert` stores for a new one, for who stores it in another way and says by the carrier how that went. */
  made(document: Document, context: Context): Made;
  /** Changes one in a single statement. Returns it afterwards; null where the filter finds none. */
  change(id: string, change: Change, context: Context): Promise<Uint8Array | null>;
  /** Sets fields of a live one to expressions; fails where there is none. */
  set(id: string, values: Document, context: Context): Promise<Uint8Array>;
  /**
   * Takes a live one to another state, where its state allows it: the filter of the statement decides, so that of two steps
   * at once only those that follow one another are taken. Fails with `ILLEGAL_TRANSITION`, metadata `from` and `to`, or
   * `ETAG_MISMATCH`; null where only the step's own filter finds none.
   */
  step(id: string, step: Step, context: Context): Promise<Uint8Array | null>;
  /**
   * Changes the fields that the mask names to what `document` has there; `extra` sees the set and may add to it. Fails with
   * `ETAG_MISMATCH`.
   */
  update<D extends DescMessage>(
    sent: { schema: D; message: MessageShape<D>; mask: FieldMask | undefined; etag: string; id: string },
    documentOf: (isChanged: (name: string) => boolean) => Document,
    context: Context,
    extra?: (set: Document, isChanged: (name: string) => boolean) => void,
  ): Promise<Uint8Array>;
  /** Deletes softly, or only says what would happen; `set` sets more in the same statement, to expressions. */
  delete(
    id: string,
    options: { etag: string; validateOnly: boolean; set?: Document },
    context: Context,
  ): Promise<Uint8Array>;
  undelete(id: string, options: { etag: string }, context: Context): Promise<Uint8Array>;
  /** Why no live one was found that has an etag. */
  whyNot(id: string, context: Context): Promise<ConnectError>;
  list(call: ListCall, context: Context): Promise<Page>;
  count(filter: Filter<Document>, context: Context): Promise<bigint>;
}

export function entity(options: EntityOptions): Entity {
  const { db, schema, id: idName, ready, pageTokens } = options;
  const { notFound, mustBeSet, etagMismatch, illegalStep, notDeleted, keyTaken, alreadyExists } =
    entityRefusals(options);
  const collection = db.collection(collectionOf(schema).name);
  const live = (id: string): Document => ({ [idName]: id, deleted_at: null });

  const find = async (filter: Filter<Document>, context: Context) =>
    collection.findOne<Uint8Array>(filter, { raw: true, ...deadlineOf(context) });

  const get = async (filter: Filter<Document>, context: Context, about: Record<string, string>) => {
    const found = await find(filter, context);
    if (found === null) throw notFound(about);
    return found;
  };

  const audited = (id: string, context: Context, fields?: readonly string[]) =>
    auditCarrier(context, {
      collection: collection.collectionName,
      key: { [idName]: id },
      resource: { type: schema.name, name: id },
      ...(fields !== undefined && { fields }),
    });

  const change = async (id: string, { stages, filter, fields, now = new Date() }: Change, context: Context) => {
    await ready(schema);
    const carrier = audited(id, context, fields);
    const pipeline = [
      ...stages,
      { $set: { revision: sum("$revision", 1n), updated_at: now } },
      ...(carrier === undefined ? [] : [auditStage(carrier.record)]),
    ];
    try {
      // Not `raw`: of this command the driver would leave the failure raw too, and no longer see which it may retry.
      const found = await collection.findOneAndUpdate(
        filter === undefined ? live(id) : { [idName]: id, ...filter },
        pipeline,
        {
          returnDocument: "after",
          useBigInt64: true,
          ...deadlineOf(context),
        },
      );
      auditApplied(carrier, found !== null);
      return found === null ? null : documentBytes(found);
    } catch (error) {
      if (duplicateKey(error) !== undefined) auditApplied(carrier, false);
      throw alreadyExists(error);
    }
  };

  /** A document as it is first stored, and what it is for the audit log. */
  const created = (document: Document, now: Date, context: Context): Made => {
    const stored: Document = { ...document, created_at: now, updated_at: now, revision: 1n };
    const id = document[idName] as string; // whoever makes a document gives it its id
    const carrier = audited(id, context);
    if (carrier === undefined) return { stored };
    stored[auditKey] = [carrier.record];
    return { stored, carrier };
  };

  /** Why no live one was found that has that etag, and these fields. */
  const whyNot = async (id: string, context: Context, fields: readonly string[] = []) => {
    const projection = Object.fromEntries(["revision", ...fields].map((field) => [field, 1]));
    const found = await collection.findOne(live(id), { projection, ...deadlineOf(context) });
    if (found === null) return notFound({ [idName]: id });
    const absent = fields.filter((path) => valueAt(found, path) === undefined);
    return absent.length > 0 ? mustBeSet(absent) : etagMismatch(id, found);
  };

  const step = async (id: string, { machine, to, set = {}, filter = {}, etag = "", now }: Step, context: Context) => {
    const { field } = machine;
    const [before, after] = [machine.before(to), machine.name(to)];
    const taken = {
      stages: [{ $set: { ...set, [field]: after } }],
      filter: { deleted_at: null, [field]: { $in: [...before] }, ...matching(etag), ...filter },
      ...(now !== undefined && { now }),
    };
    for (let attempt = 1; ; attempt++) {
      const found = await change(id, taken, context);
      if (found !== null) return found;
      const projection = { [field]: 1, revision: 1 };
      const there = await collection.findOne(live(id), { projection, ...deadlineOf(context) });
      if (there === null) throw notFound({ [idName]: id });
      const from = String(there[field]);
      if (!before.includes(from)) {
        throw illegalStep(id, from, after);
      }
      if (etag !== "" && etag !== etagOf(BigInt(there["revision"] as bigint | number))) throw etagMismatch(id, there);
      // It may have come into such a state only after the statement.
      if (attempt === 3) return null;
    }
  };

  return {
    collection,
    live,
    find,
    get,
    notFound,
    taken: (field) => keyTaken(field),
    made: (document, context) => created(document, new Date(), context),
    change,
    step,
    whyNot,

    async batch(ids, context) {
      const filter = { [idName]: { $in: [...ids] }, deleted_at: null };
      const found = await collection.find<Uint8Array>(filter, { raw: true, ...cancellable(context) }).toArray();
      const byId = new Map(found.map((document) => [stringIn(document, idName), document]));
      const documents = ids.map((id) => byId.get(id)).filter((document) => document !== undefined);
      return { documents, missing: ids.filter((id) => !byId.has(id)) };
    },

    async createdBefore(mark, context) {
      if (mark === undefined) return null;
      await ready(schema);
      return createdBefore(collection, mark, deadlineOf(context));
    },

    async insert(document, context, mark) {
      await ready(schema);
      try {
        const { stored, carrier } = created(document, new Date(), context);
        const made = await createOnce(collection, stored, mark, deadlineOf(context));
        auditApplied(carrier, made.isNew);
        return made;
      } catch (error) {
        throw alreadyExists(error);
      }
    },

    async insertMany(items, context) {
      await ready(schema);
      const now = new Date();
      const made = items.map(({ document }) => created(document, now, context));
      const marked = items.map(({ mark }, index) => ({ document: made[index]?.stored ?? {}, mark }));
      const { indexes } = collectionOf(schema);
      const outcomes = await createManyOnce(collection, marked, indexes, deadlineOf(context));
      for (const [index, outcome] of outcomes.entries()) {
        auditApplied(made[index]?.carrier, "isNew" in outcome && outcome.isNew);
      }
      return outcomes.map((outcome) => {
        if ("refusal" in outcome) return outcome.refusal;
        return "duplicate" in outcome ? keyTaken(outcome.duplicate[0] ?? idName, outcome.cause) : undefined;
      });
    },

    async set(id, values, context) {
      const found = await change(id, { stages: [{ $set: values }] }, context);
      if (found === null) throw notFound({ [idName]: id });
      return found;
    },

    async update({ schema: message, message: sent, mask, etag, id }, documentOf, context, extra) {
      const paths = maskedPaths(message, sent, mask);
      const tops = new Set(paths.map((path) => path.split(".", 1)[0]));
      const isChanged = (field: string) => tops.has(field);
      const document = documentOf(isChanged);
      const { set, cleared, wrong, beside } = maskedChange(message, document, paths);
      if (wrong.length > 0) throw mustBeSet(wrong);
      extra?.(set, isChanged);
      const stages = [
        ...(Object.keys(set).length > 0 ? [{ $set: set }] : []),
        ...(cleared.length > 0 ? [{ $unset: cleared }] : []),
      ];
      const whole = Object.fromEntries(beside.map((path) => [path, { $exists: true }]));
      const filter = { deleted_at: null, ...matching(etag), ...whole };
      const found =
        paths.length === 0
          ? await find({ [idName]: id, ...filter }, context)
          : await change(id, { stages, filter, fields: paths }, context);
      if (found === null) throw await whyNot(id, context, beside);
      return found;
    },

    async delete(id, { etag, validateOnly, set = {} }, context) {
      const now = new Date();
      const filter = { deleted_at: null, ...matching(etag) };
      const found = validateOnly
        ? await find({ [idName]: id, ...filter }, context)
        : await change(id, { stages: [{ $set: { ...set, deleted_at: now } }], filter, now }, context);
      if (found === null) throw await whyNot(id, context);
      return found;
    },

    async undelete(id, { etag }, context) {
      const filter = { deleted_at: { $ne: null }, [purgeKey]: null, ...matching(etag) };
      const found = await change(id, { stages: [{ $unset: "deleted_at" }], filter }, context);
      if (found !== null) return found;
      const projection = { revision: 1, deleted_at: 1 };
      const there = await collection.findOne(
        { [idName]: id, [purgeKey]: null },
        { projection, ...deadlineOf(context) },
      );
      if (there === null) throw notFound({ [idName]: id });
      if (there["deleted_at"] instanceof Date) throw etagMismatch(id, there);
      throw notDeleted(id);
    },

    list: async (call, context) => listDocuments({ collection, schema, id: idName, pageTokens }, call, context),

    async count(filter, context) {
      return BigInt(await collection.countDocuments(filter, cancellable(context)));
    },
  };
}

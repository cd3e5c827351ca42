import { type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import type { Document } from "bson";
import { type Db, MongoServerError } from "mongodb";

import { isReason, type Reason } from "../errors.ts";
import { auditApplied, auditCarrier, auditPush } from "../schema/audited-call.ts";
import { deadlineOf } from "../schema/call-options.ts";
import { codecFor } from "../schema/codec.ts";
import { collectionOf } from "../schema/collection.ts";
import type { Created } from "../schema/create-once.ts";
import { onlyWritable } from "../schema/field-mask.ts";

/** The secrets of entities of one kind, in a collection of their own: a message that no rpc returns describes it. */
export interface Secrets<D extends DescMessage> {
  /**
   * Stores the secrets of something new and then the thing itself, so that one that is seen has them. `owner` says whose they
   * are, the id first, which nobody knows yet: a crash in between leaves secrets that belong to nothing and that nothing finds.
   * Takes them back where it is sure that the thing was not stored under that id.
   */
  create(
    owner: Document,
    sent: MessageShape<D> | undefined,
    insert: () => Promise<Created>,
    context: HandlerContext,
  ): Promise<Created>;
  /**
   * Stores those of things that were just created under ids that callers give, which others may have had before: after the
   * things, and unless there are some. A retry brings what a crash in between has left out, and takes back nothing that was set
   * since. The things carry the record for the audit log.
   */
  add(items: readonly { owner: Document; sent: MessageShape<D> }[], context: HandlerContext): Promise<void>;
  /** Replaces all secrets of something that is there. */
  replace(owner: Document, sent: MessageShape<D> | undefined, context: HandlerContext): Promise<void>;
}

export function secretsOf<D extends DescMessage>(
  db: Db,
  {
    schema,
    name,
    resource,
    refusals,
  }: {
    readonly schema: D;
    /** What they are called in requests, for example `credentials`. */
    readonly name: string;
    /** Name of the message that they belong to, for example `User`. */
    readonly resource: string;
    /** Reasons which say for sure that the thing was not stored, and will not be. */
    readonly refusals: readonly Reason[];
  },
): Secrets<D> {
  const collection = db.collection(collectionOf(schema).name);
  const codec = codecFor(schema);
  const kept = new Set(["created_at", "updated_at", "revision"]);

  const encode = (owner: Document, sent: MessageShape<D>): Document => {
    const document = codec.encode(onlyWritable(schema, sent), name);
    for (const field of kept) delete document[field];
    return { ...document, ...owner };
  };
  const keyOf = (owner: Document): Document => Object.fromEntries(Object.entries(owner).slice(0, 1));

  /** Whether an error says for sure that the thing was not stored. */
  const isRefusal = (error: unknown): boolean => {
    if (["REQUEST_ID_REUSED" as const, ...refusals].some((reason) => isReason(error, reason))) return true;
    return error instanceof MongoServerError && error.code === 121; // its validator
  };

  return {
    async create(owner, sent, insert, context) {
      if (sent === undefined) return insert();
      const now = new Date();
      const document = { ...encode(owner, sent), created_at: now, updated_at: now, revision: 1n };
      await collection.insertOne(document, deadlineOf(context));
      try {
        const created = await insert();
        if (!created.isNew) await collection.deleteOne(keyOf(owner), deadlineOf(context));
        return created;
      } catch (error) {
        if (isRefusal(error)) await collection.deleteOne(keyOf(owner), deadlineOf(context));
        throw error;
      }
    },

    async add(items, context) {
      if (items.length === 0) return;
      const now = new Date();
      const upserts = items.map(({ owner, sent }) => ({
        updateOne: {
          filter: keyOf(owner),
          update: { $setOnInsert: { ...encode(owner, sent), created_at: now, updated_at: now, revision: 1n } },
          upsert: true,
        },
      }));
      await collection.bulkWrite(upserts, { ordered: false, ...deadlineOf(context) });
    },

    async replace(owner, sent, context) {
      const now = new Date();
      const document = encode(owner, sent ?? codec.decode({}));
      const absent = schema.fields.map((field) => field.name).filter((field) => !(field in document));
      const key = keyOf(owner);
      const id = String(Object.values(key)[0]);
      const carrier = auditCarrier(context, {
        collection: collection.collectionName,
        key,
        resource: { type: resource, name: id },
        fields: [name],
      });
      await collection.updateOne(
        key,
        {
          $set: { ...document, updated_at: now },
          $unset: Object.fromEntries(absent.filter((field) => !kept.has(field)).map((field) => [field, ""])),
          $setOnInsert: { created_at: now },
          $inc: { revision: 1n },
          ...auditPush(carrier?.record),
        },
        { upsert: true, ...deadlineOf(context) },
      );
      auditApplied(carrier, true);
    },
  };
}

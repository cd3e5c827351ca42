import type { ServiceImpl } from "@connectrpc/connect";
import type { CreateCollectionOptions, Db, Document, TimeSeriesCollectionOptions } from "mongodb";

import { CollectionType } from "../../../gen/lucid/admin/v1/collection_pb.ts";
import {
  type CountDocumentsRequest,
  type CreateCollectionRequest,
  type DatabaseAdminService,
  ListCollectionsRequestSchema,
} from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { fail } from "../../errors.ts";
import type { CarryOut } from "../../schema/audited-call.ts";
import { cancellable, deadlineOf } from "../../schema/call-options.ts";
import { pageSizeOf, queryOf } from "../../schema/list-query.ts";
import type { PageTokens } from "../../schema/page-tokens.ts";
import { badRequest } from "../../schema/refusals.ts";
import {
  describe,
  findInfo,
  findInfos,
  listNames,
  requireInfo,
  requireStored,
  serverCollation,
  serverWord,
  answersOf,
  summarise,
  typeOf,
  whole,
} from "./catalog.ts";
import { expressionOf } from "./expressions.ts";
import {
  collectionAlreadyExists,
  collectionResource,
  type NamedCollection,
  type Names,
  requireConfirmed,
  requireUnprotected,
} from "./names.ts";
import { isView, timeSeriesStays, told } from "./refusals.ts";
import { tryOut } from "./trials.ts";

/** What looking after collections needs. */
export interface CollectionAdminOptions {
  readonly names: Names;
  /** Names of collections whose documents hold what nobody may read. */
  readonly secretive: ReadonlySet<string>;
  /** The service's own database. */
  readonly system: Db;
  readonly pageTokens: () => Promise<PageTokens>;
  readonly carryOut: CarryOut;
}

/** Collections whose sizes are asked for at once. */
const askedAtOnce = 8;

const mostFilterBytes = 64 * 1024;
const mostValidatorBytes = 256 * 1024;

/** The handlers that look after collections as a whole. */
export function collectionAdmin({
  names,
  secretive,
  system,
  pageTokens,
  carryOut,
}: CollectionAdminOptions): Pick<
  ServiceImpl<typeof DatabaseAdminService>,
  | "listCollections"
  | "getCollection"
  | "createCollection"
  | "dropCollection"
  | "renameCollection"
  | "countDocuments"
  | "validateCollection"
> {
  /** Fails with `COLLECTION_PROTECTED` in any database: restores make copies of the domain's collections. */
  const requireNoSecrets = ({ database, collection }: NamedCollection): void => {
    if (!secretive.has(collection)) return;
    throw fail("COLLECTION_PROTECTED", `The collection ${collection} holds what nobody may read`, {
      metadata: { database, collection },
    });
  };

  return {
    async listCollections(request, context) {
      const query = queryOf(ListCollectionsRequestSchema, request);
      const after = (await pageTokens()).decode(query, request.pageToken) ?? "";
      const size = pageSizeOf(request.pageSize);
      const place = names.database(request.database);
      const look = cancellable(context);
      const wanted = (await listNames(place, request.type, look)).filter(
        (name) => name > after && name.includes(request.nameContains),
      );
      const page = wanted.slice(0, size);
      const infos = await findInfos(place, page, look);
      const collections = [];
      for (let first = 0; first < infos.length; first += askedAtOnce) {
        const batch = infos.slice(first, first + askedAtOnce);
        const found = batch.map((info) => {
          const at = names.collection({ database: place.database, collection: info.name });
          return summarise(at, info, look);
        });
        collections.push(...(await Promise.all(found)));
      }
      const last = page.at(-1);
      const more = wanted.length > size && last !== undefined;
      return { collections, nextPageToken: more ? (await pageTokens()).encode(query, last) : "" };
    },

    async getCollection(request, context) {
      const at = names.collection(request);
      const look = cancellable(context);
      return { collection: await describe(at, await requireInfo(at, look), look) };
    },

    async createCollection(request, context) {
      const at = names.collection(request);
      requireUnprotected(at);
      const options = creationOf(request);
      const look = cancellable(context);
      if ((await findInfo(at, look)) !== undefined) throw collectionAlreadyExists(at);
      const create = (db: Db, name: string) =>
        told({ at, invalid: "COLLECTION_DEFINITION_INVALID" }, () =>
          db.createCollection(name, { ...options, ...deadlineOf(context) }),
        );
      if (request.validateOnly) {
        await tryOut(system, (name) => create(system, name));
        return {};
      }
      await carryOut(context, collectionResource(at), () => create(at.db, at.collection));
      return { collection: await describe(at, await requireInfo(at, look), look) };
    },

    async dropCollection(request, context) {
      const at = names.collection(request);
      const look = cancellable(context);
      const info = await requireInfo(at, look);
      // What only has the name of a collection of the service's is in its way.
      if (typeOf(info) === CollectionType.COLLECTION) requireUnprotected(at);
      const found = await summarise(at, info, look);
      if (request.validateOnly) return { collection: found };
      requireConfirmed("confirm_collection", request.confirmCollection, at.collection);
      await carryOut(context, collectionResource(at), () =>
        told({ at }, () => at.db.dropCollection(at.collection, deadlineOf(context))),
      );
      return { collection: found };
    },

    async renameCollection(request, context) {
      const { database, newCollection, dropTarget, validateOnly } = request;
      const at = names.collection(request);
      const target = names.collection({ database, collection: newCollection }, "new_collection");
      for (const each of [at, target]) requireUnprotected(each);
      // Under another name it could be counted by filters.
      requireNoSecrets(at);
      if (at.path === target.path) {
        throw badRequest({ field: "new_collection", description: "must be another name" });
      }
      const look = cancellable(context);
      const info = await requireStored(at, look);
      const isTimeSeries = typeOf(info) === CollectionType.TIME_SERIES;
      const there = await findInfo(target, look);
      if (there !== undefined && !dropTarget) throw collectionAlreadyExists(target);
      if (there?.type === "view") throw isView(target);
      const dropped = there === undefined ? {} : { dropped: await summarise(target, there, look) };
      if (isTimeSeries) {
        const timeseries = info.options?.["timeseries"] as TimeSeriesCollectionOptions; // as its type says
        await tryOut(system, async (name) => {
          await system.createCollection(name, { timeseries, ...deadlineOf(context) });
          const renamed = `${name}-renamed`;
          await told({ at, isTimeSeries }, () => rename(system, { from: name, to: renamed }, deadlineOf(context)));
          const [kept] = await system.listCollections({ name: renamed }, { nameOnly: false, ...look }).toArray();
          await system.dropCollection(renamed, deadlineOf(context));
          // There is a server that says yes and makes a plain collection of it.
          if (kept?.options?.["timeseries"] === undefined) throw timeSeriesStays(at);
        });
      }
      if (validateOnly) return dropped;
      if (there !== undefined) {
        requireConfirmed("confirm_new_collection", request.confirmNewCollection, target.collection);
      }
      // What has come there since was not confirmed.
      const options = { dropTarget: there !== undefined, ...deadlineOf(context) };
      await carryOut(context, collectionResource(at), () =>
        told({ at, target, isTimeSeries }, () =>
          rename(at.db, { from: at.collection, to: target.collection }, options),
        ),
      );
      return { collection: await describe(target, await requireInfo(target, look), look), ...dropped };
    },

    async countDocuments(request, context) {
      const at = names.collection(request);
      const filter = filterOf(request);
      if (filter !== undefined) requireNoSecrets(at);
      const look = cancellable(context);
      await requireInfo(at, look);
      const collection = at.db.collection(at.collection);
      if (request.estimated) return { count: whole(await collection.estimatedDocumentCount(look)) };
      const count = () => collection.countDocuments(filter ?? {}, look);
      return { count: whole(await told({ at, invalid: "COLLECTION_FILTER_INVALID" }, count)) };
    },

    async validateCollection(request, context) {
      const { full, background } = request;
      const at = names.collection(request);
      if (full && background) throw badRequest({ field: "background", description: "must not be set beside full" });
      const look = cancellable(context);
      await requireStored(at, look);
      const { maxTimeMS, signal } = look;
      const limit = maxTimeMS === undefined ? {} : { maxTimeMS };
      const validate = { validate: at.collection, full, ...(background && { background }), ...limit };
      return validated(await told({ at }, () => at.db.command(validate, { signal })));
    },
  };
}

/** Not by the driver's own call, which takes what is illegal for something else. */
async function rename(db: Db, { from, to }: { from: string; to: string }, options: Document): Promise<void> {
  const { databaseName, client } = db;
  const names = { renameCollection: `${databaseName}.${from}`, to: `${databaseName}.${to}` };
  await client.db("admin").command({ ...names, ...options });
}

function filterOf({ filter, estimated }: CountDocumentsRequest): Document | undefined {
  if (filter === undefined) return undefined;
  if (estimated) throw badRequest({ field: "estimated", description: "must not be set beside a filter" });
  return expressionOf(filter, { field: "filter", mostBytes: mostFilterBytes });
}

/** What the server is to make. Fails with `BAD_REQUEST` where options exclude each other. */
function creationOf(request: CreateCollectionRequest): CreateCollectionOptions {
  const { capped, validator, validationLevel, validationAction, collation, timeSeries, expireAfterSeconds } = request;
  if (timeSeries !== undefined) {
    const beside = { capped, validator, validation_level: validationLevel, validation_action: validationAction };
    const wrong = Object.entries(beside).filter(([, value]) => value !== undefined && value !== 0);
    const description = "must not be set beside time_series";
    if (wrong.length > 0) throw badRequest(...wrong.map(([field]) => ({ field, description })));
  } else if (expireAfterSeconds > 0n) {
    throw badRequest({ field: "expire_after_seconds", description: "must not be set without time_series" });
  }
  const level = serverWord.level(validationLevel);
  const action = serverWord.action(validationAction);
  const granularity = serverWord.granularity(timeSeries?.granularity ?? 0);
  return {
    ...(capped && {
      capped: true,
      size: Number(capped.maxBytes),
      ...(capped.maxDocuments > 0n && { max: Number(capped.maxDocuments) }),
    }),
    ...(validator && { validator: expressionOf(validator, { field: "validator", mostBytes: mostValidatorBytes }) }),
    ...(level !== undefined && { validationLevel: level }),
    ...(action !== undefined && { validationAction: action }),
    ...(collation && { collation: serverCollation(collation) }),
    ...(timeSeries && {
      timeseries: {
        timeField: timeSeries.timeField,
        ...(timeSeries.metaField !== "" && { metaField: timeSeries.metaField }),
        ...(granularity !== undefined && { granularity }),
      },
    }),
    ...(expireAfterSeconds > 0n && { expireAfterSeconds: Number(expireAfterSeconds) }),
  };
}

/** Numbers and names of a reply to `validate`; nothing of its sentences and keys, which hold values. */
function validated(reply: Document) {
  const answers = answersOf(reply);
  const sum = (of: (answer: Document) => unknown) => answers.reduce((total, answer) => total + whole(of(answer)), 0n);
  const indexes = new Map<string, { index: string; valid: boolean; keyCount: bigint }>();
  for (const { indexDetails = {}, keysPerIndex = {} } of answers) {
    for (const [index, { valid }] of Object.entries(indexDetails as Record<string, { valid?: boolean }>)) {
      const before = indexes.get(index) ?? { valid: true, keyCount: 0n };
      const keyCount = before.keyCount + whole((keysPerIndex as Document)[index]);
      indexes.set(index, { index, valid: before.valid && valid === true, keyCount });
    }
  }
  return {
    valid: answers.every(({ valid }) => valid === true),
    documentCount: sum(({ nrecords }) => nrecords),
    invalidDocumentCount: sum(({ nInvalidDocuments }) => nInvalidDocuments),
    noncompliantDocumentCount: sum(({ nNonCompliantDocuments }) => nNonCompliantDocuments),
    errorCount: sum(({ errors }) => (errors as unknown[] | undefined)?.length),
    warningCount: sum(({ warnings }) => (warnings as unknown[] | undefined)?.length),
    indexes: [...indexes.values()],
  };
}

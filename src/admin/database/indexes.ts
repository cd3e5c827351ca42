import { randomUUIDv7 } from "node:crypto";

import { create, equals, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { durationMs, timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { Db, Document } from "mongodb";

import {
  CollectionIndexSchema,
  type CollectionIndexStatisticsSchema,
  IndexBuildSchema,
  IndexBuildType,
} from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import {
  type DatabaseAdminService,
  ListIndexBuildsRequestSchema,
} from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { fail, isReason } from "../../errors.ts";
import { jobKey, jobsCollection } from "../../jobs/job-store.ts";
import type { Jobs } from "../../jobs/jobs.ts";
import { auditRecord, type CarryOut } from "../../schema/audited-call.ts";
import { cancellable, deadlineOf } from "../../schema/call-options.ts";
import { type Ensured, isIndex, standingOf, type WantedCollection } from "../../schema/collection-keeper.ts";
import { pageSizeOf, queryOf } from "../../schema/list-query.ts";
import type { PageTokens } from "../../schema/page-tokens.ts";
import { ensuredThing } from "../ensured.ts";
import { type LookOptions, requireStored, whole } from "./catalog.ts";
import { indexMessage, type IndexSpec, specOf } from "./definitions.ts";
import { indexBuildEventOf, indexBuildKind, indexBuildNotFound, indexBuildOf, wasMade } from "./index-builds.ts";
import { idIndex, listSpecs, requireSpec } from "./index-catalog.ts";
import { indexResource, type NamedCollection, type Names, requireConfirmed } from "./names.ts";
import { told } from "./refusals.ts";
import { chosenStandard } from "./standard.ts";
import { tryOut } from "./trials.ts";

/** What looking after indexes needs. */
export interface IndexAdminOptions {
  readonly names: Names;
  readonly domain: Db;
  readonly standard: readonly WantedCollection[];
  readonly secretive: ReadonlySet<string>;
  readonly system: Db;
  readonly jobs: Jobs;
  readonly pageTokens: () => Promise<PageTokens>;
  readonly carryOut: CarryOut;
}

const usualHeartbeatMs = 15_000;

/** The handlers that look after indexes. What takes long is done by the jobs that `indexBuilds` registers, in any replica. */
export function indexAdmin({
  names,
  domain,
  standard,
  secretive,
  system,
  jobs,
  pageTokens,
  carryOut,
}: IndexAdminOptions): Pick<
  ServiceImpl<typeof DatabaseAdminService>,
  | "listIndexes"
  | "getIndex"
  | "createIndex"
  | "updateIndex"
  | "dropIndex"
  | "getIndexStatistics"
  | "ensureIndexes"
  | "reindexCollection"
  | "getIndexBuild"
  | "listIndexBuilds"
  | "watchIndexBuild"
  | "cancelIndexBuild"
> {
  const standardOf = ({ isProtected, collection }: NamedCollection) =>
    isProtected ? (standard.find(({ name }) => name === collection)?.indexes ?? []) : [];
  /** One that only has the name of an index that the service needs is in its way. */
  const isProtectedIndex = (at: NamedCollection, spec: IndexSpec) => {
    const found = { ...spec, key: Object.fromEntries(spec.key) };
    return spec.name === idIndex || standardOf(at).some((index) => index.name === spec.name && isIndex(found, index));
  };
  const messageOf = (at: NamedCollection, spec: IndexSpec) =>
    indexMessage(spec, { ...at, isProtected: isProtectedIndex(at, spec) });

  const requireUnprotectedIndex = (at: NamedCollection, spec: IndexSpec): void => {
    if (!isProtectedIndex(at, spec)) return;
    const { database, collection } = at;
    throw fail("INDEX_PROTECTED", `The index ${spec.name} is needed as it is`, {
      metadata: { database, collection, index: spec.name },
    });
  };

  /** Fails for an index that would keep the service from writing, remove what it has written, or tell secrets. */
  const requireHarmless = (at: NamedCollection, spec: IndexSpec): void => {
    const { isProtected, database, collection } = at;
    // In any database: restores make copies of the domain's.
    const tells = secretive.has(collection) && spec["partialFilterExpression"] !== undefined;
    if (!tells && !(isProtected && (spec["unique"] === true || spec["expireAfterSeconds"] !== undefined))) return;
    throw fail("COLLECTION_PROTECTED", `The service itself needs the collection ${collection}`, {
      metadata: { database, collection, index: spec.name },
    });
  };

  /** Fails for an index that would be in the way of one that the service needs. */
  const requireNoStandard = (at: NamedCollection, spec: IndexSpec): void => {
    const keys = JSON.stringify([...spec.key]);
    const isInTheWay = standardOf(at).some(({ name, key }) => name === spec.name || JSON.stringify([...key]) === keys);
    if (isInTheWay) throw requiredIndex(at, spec.name);
  };

  /** The job of a request: the one that an earlier call with its request id has made, or a new one that passes `check`. */
  const jobFor = async (
    asked: MessageInitShape<typeof IndexBuildSchema>,
    { requestId, check }: { readonly requestId: string; readonly check: () => Promise<void> },
    context: HandlerContext,
  ) => {
    const spec = toBinary(IndexBuildSchema, create(IndexBuildSchema, asked));
    const earlier = requestId === "" ? undefined : await jobs.recall(indexBuildKind, { requestId, spec });
    if (earlier !== undefined) return indexBuildOf(earlier);
    await check();
    const jobId = randomUUIDv7();
    const record = recordOf(jobId, context);
    const request = requestId === "" ? {} : { requestId };
    return indexBuildOf(await jobs.create(indexBuildKind, { jobId, spec, record, ...request }));
  };

  return {
    async listIndexes(request, context) {
      const at = names.collection(request);
      const look = cancellable(context);
      await requireStored(at, look);
      const found = await listSpecs(at, look);
      return { indexes: found.map((spec) => messageOf(at, spec)) };
    },

    async getIndex(request, context) {
      const at = names.collection(request);
      const look = cancellable(context);
      await requireStored(at, look);
      return { index: messageOf(at, await requireSpec(at, request.index, look)) };
    },

    async createIndex({ definition, requestId, validateOnly, ...place }, context) {
      // The contract's rules let no request without one through.
      if (definition === undefined) throw new Error("There is no definition");
      const at = names.collection(place);
      const spec = specOf(definition, "definition");
      requireNoStandard(at, spec);
      requireHarmless(at, spec);
      const index = messageOf(at, spec);
      const look = cancellable(context);
      const check = async () => {
        const { options = {} } = await requireStored(at, look);
        const there = await listSpecs(at, look);
        // Not every server knows it again where it has added to it.
        if (there.some((other) => equals(CollectionIndexSchema, messageOf(at, other), index))) throw isThere(at, spec);
        await requirePossible(system, { at, spec, options, there }, context);
      };
      if (validateOnly) {
        await check();
        return { index };
      }
      const { database, collection } = at;
      const asked = { type: IndexBuildType.CREATE, database, collection, indexes: [index] };
      return { build: await jobFor(asked, { requestId, check }, context), index };
    },

    async updateIndex({ index, hidden, expireAfterSeconds, validateOnly, ...place }, context) {
      const at = names.collection(place);
      const look = cancellable(context);
      await requireStored(at, look);
      const found = await requireSpec(at, index, look);
      requireUnprotectedIndex(at, found);
      const change = {
        ...(hidden !== undefined && { hidden }),
        ...(expireAfterSeconds !== undefined && { expireAfterSeconds }),
      };
      const wanted = { ...found, ...change };
      requireHarmless(at, wanted);
      if (validateOnly) return { index: messageOf(at, wanted) };
      const about = { at, index, invalid: "INDEX_DEFINITION_INVALID" } as const;
      const command = { collMod: at.collection, index: { name: index, ...change }, ...deadlineOf(context) };
      const updated = await carryOut(context, indexResource(at, index), async () => {
        await told(about, () => at.db.command(command));
        const after = await requireSpec(at, index, look);
        requireChanged(at, after, wanted);
        return after;
      });
      return { index: messageOf(at, updated) };
    },

    async dropIndex({ index, confirmIndex, validateOnly, ...place }, context) {
      const at = names.collection(place);
      const look = cancellable(context);
      await requireStored(at, look);
      const spec = await requireSpec(at, index, look);
      requireUnprotectedIndex(at, spec);
      const found = messageOf(at, spec);
      if (validateOnly) return { index: found };
      requireConfirmed("confirm_index", confirmIndex, index);
      // Not the driver's own call, which takes `*` for all of them.
      const command = { dropIndexes: at.collection, index, ...deadlineOf(context) };
      await carryOut(context, indexResource(at, index), () => told({ at, index }, () => at.db.command(command)));
      return { index: found };
    },

    async getIndexStatistics(request, context) {
      const at = names.collection(request);
      const look = cancellable(context);
      await requireStored(at, look);
      return { indexes: await statisticsOf(at, look) };
    },

    async ensureIndexes({ collections: asked, validateOnly }, context) {
      const look = cancellable(context);
      const collections = [];
      const missing = [];
      for (const wanted of chosenStandard(standard, asked, names)) {
        const { name: collection, indexes } = wanted;
        const things = await standingOf(domain, { name: collection, indexes }, look);
        collections.push({ collection, things: things.map(ensuredThing) });
        const at = names.collection({ database: "", collection });
        const isMissing = new Set(things.filter(isWaiting).map(({ name }) => name));
        missing.push(...indexes.filter(({ name }) => isMissing.has(name)).map((index) => messageOf(at, { ...index })));
      }
      if (validateOnly || missing.length === 0) return { collections };
      const [only] = new Set(missing.map(({ collection }) => collection)).size === 1 ? missing : [];
      const build = {
        type: IndexBuildType.ENSURE,
        database: domain.databaseName,
        collection: only?.collection ?? "",
        indexes: missing,
      };
      return { collections, build: await jobFor(build, { requestId: "", check: async () => {} }, context) };
    },

    async reindexCollection({ confirmCollection, validateOnly, requestId, ...place }, context) {
      const at = names.collection(place);
      const look = cancellable(context);
      const check = async () => {
        await requireStored(at, look);
        await tryOut(system, (name) =>
          told({ at, onlyAlone: true }, async () => {
            await system.command({ create: name, ...deadlineOf(context) });
            await system.command({ reIndex: name, ...deadlineOf(context) });
          }),
        );
      };
      if (validateOnly) {
        await check();
        return {};
      }
      requireConfirmed("confirm_collection", confirmCollection, at.collection);
      const { database, collection } = at;
      return {
        build: await jobFor({ type: IndexBuildType.REINDEX, database, collection }, { requestId, check }, context),
      };
    },

    async getIndexBuild({ buildId }, { signal }) {
      const job = await jobs.find(indexBuildKind, buildId, signal);
      if (job === undefined) throw indexBuildNotFound(buildId);
      return { build: indexBuildOf(job) };
    },

    async listIndexBuilds(request, { signal }) {
      const query = queryOf(ListIndexBuildsRequestSchema, request);
      const tokens = await pageTokens();
      const size = pageSizeOf(request.pageSize);
      const before = tokens.decode(query, request.pageToken);
      const found = await jobs.list(indexBuildKind, { before, limit: size + 1 }, signal);
      const page = found.slice(0, size);
      const last = page.at(-1);
      const nextPageToken = found.length > size && last !== undefined ? tokens.encode(query, last.jobId) : "";
      return { builds: page.map(indexBuildOf), nextPageToken };
    },

    async *watchIndexBuild({ buildId, afterSequence, heartbeatInterval }, { signal }) {
      const heartbeatMs = heartbeatInterval === undefined ? usualHeartbeatMs : durationMs(heartbeatInterval);
      const watch = { afterSequence: Number(afterSequence), heartbeatMs, signal };
      try {
        for await (const event of jobs.watch(indexBuildKind, buildId, watch)) yield indexBuildEventOf(event);
      } catch (error) {
        throw isReason(error, "JOB_NOT_FOUND") ? indexBuildNotFound(buildId) : error;
      }
    },

    async cancelIndexBuild({ buildId }, context) {
      try {
        return { build: indexBuildOf(await jobs.cancel(indexBuildKind, buildId, recordOf(buildId, context))) };
      } catch (error) {
        throw isReason(error, "JOB_NOT_FOUND") ? indexBuildNotFound(buildId) : error;
      }
    },
  };
}

const isWaiting = ({ state }: Ensured): boolean => state === "waiting";

function requiredIndex({ database, collection }: NamedCollection, index: string): Error {
  return fail("INDEX_PROTECTED", "The service needs an index of these keys, which EnsureIndexes makes", {
    metadata: { database, collection, index },
  });
}

/** What says whether a collection may have an index. */
interface Possible {
  readonly at: NamedCollection;
  readonly spec: IndexSpec;
  /** Options of the collection. */
  readonly options: Document;
  /** Its indexes. */
  readonly there: readonly IndexSpec[];
}

/**
 * Has the server say whether an index is possible beside those that are there, on an empty collection of the same kind. Fails as it
 * would on the collection itself, and with `INDEX_ALREADY_EXISTS`, but for what depends on the documents.
 */
async function requirePossible(
  system: Db,
  { at, spec, options, there }: Possible,
  context: Parameters<typeof deadlineOf>[0],
): Promise<void> {
  const { timeseries, collation, clusteredIndex, capped, size } = options;
  const same = {
    ...(timeseries !== undefined && { timeseries }),
    ...(collation !== undefined && { collation }),
    ...(clusteredIndex !== undefined && { clusteredIndex }),
    ...(capped === true && { capped: true, size: Math.min(Number(size), 1024 * 1024) }),
  };
  const others = there.filter(({ name, clustered }) => name !== idIndex && clustered !== true);
  const about = { at, index: spec.name, invalid: "INDEX_DEFINITION_INVALID" } as const;
  await tryOut(system, (name) =>
    told(about, async () => {
      const run = (command: Document) => system.command({ ...command, ...deadlineOf(context) });
      await run({ create: name, ...same });
      if (others.length > 0) await run({ createIndexes: name, indexes: others });
      if (!wasMade(await run({ createIndexes: name, indexes: [spec] }))) throw isThere(at, spec);
    }),
  );
}

function isThere({ database, collection }: NamedCollection, { name: index }: IndexSpec): Error {
  const metadata = { database, collection, index };
  return fail("INDEX_ALREADY_EXISTS", `The collection ${collection} has that index already`, { metadata });
}

/** There is a server that says yes to changes that it does not make. */
function requireChanged({ database, collection }: NamedCollection, after: IndexSpec, wanted: IndexSpec): void {
  const isAsWanted = (option: string) => String(after[option] ?? false) === String(wanted[option] ?? false);
  if (["hidden", "expireAfterSeconds"].every(isAsWanted)) return;
  throw fail("MONGODB_FEATURE_MISSING", "This MongoDB has not changed the index", {
    metadata: { database, collection, index: after.name },
  });
}

/** Sizes over all shards, and uses of the members that answered. */
async function statisticsOf(
  { db, collection }: NamedCollection,
  options: LookOptions,
): Promise<MessageInitShape<typeof CollectionIndexStatisticsSchema>[]> {
  const of = db.collection(collection);
  const stats = await of.aggregate([{ $collStats: { storageStats: {} } }], options).toArray();
  const uses = await of.aggregate([{ $indexStats: {} }], options).toArray();
  const sizes = new Map<string, bigint>();
  for (const { storageStats } of stats as { storageStats?: { indexSizes?: Record<string, number> } }[]) {
    for (const [index, bytes] of Object.entries(storageStats?.indexSizes ?? {})) {
      sizes.set(index, (sizes.get(index) ?? 0n) + whole(bytes));
    }
  }
  const counts = new Map<string, { operationCount: bigint; since: Date | undefined }>();
  for (const { name, accesses } of uses as { name: string; accesses?: { ops?: unknown; since?: Date | null } }[]) {
    const before = counts.get(name);
    const times = [before?.since, accesses?.since ?? undefined].filter((time) => time !== undefined);
    const since = times.toSorted((one, other) => other.getTime() - one.getTime())[0];
    counts.set(name, { operationCount: (before?.operationCount ?? 0n) + whole(accesses?.ops), since });
  }
  const found = new Set([...counts.keys(), ...sizes.keys()]);
  return [...found].map((index) => {
    const { operationCount = 0n, since } = counts.get(index) ?? {};
    const sizeBytes = sizes.get(index) ?? 0n;
    return { index, sizeBytes, operationCount, ...(since && { sinceTime: timestampFromDate(since) }) };
  });
}

/** What the audit log is to say of a job's write. */
function recordOf(jobId: string, context: HandlerContext) {
  const resource = { type: IndexBuildSchema.name, name: jobId };
  return auditRecord(context, { collection: jobsCollection, key: jobKey(jobId), resource });
}

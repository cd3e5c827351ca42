import { equals } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import type { Db } from "mongodb";

import { CollectionIndexSchema, IndexBuildType } from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import type { DatabaseAdminService } from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { fail } from "../../errors.ts";
import type { CarryOut } from "../../schema/audited-call.ts";
import { cancellable, deadlineOf } from "../../schema/call-options.ts";
import { type Ensured, isIndex, standingOf, type WantedCollection } from "../../schema/collection-keeper.ts";
import { ensuredThing } from "../ensured.ts";
import type { IndexBuilds } from "./build-admin.ts";
import { requireStored } from "./catalog.ts";
import { indexMessage, type IndexSpec, specOf } from "./definitions.ts";
import { idIndex, listSpecs, requireSpec, statisticsOf } from "./index-catalog.ts";
import { indexResource, type NamedCollection, type Names, requireConfirmed } from "./names.ts";
import { isThere, requirePossible, requirePossibleChange } from "./possible-index.ts";
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
  readonly builds: Pick<IndexBuilds, "add">;
  readonly carryOut: CarryOut;
}

/** The handlers that look after indexes. What takes long is done by jobs. */
export function indexAdmin({
  names,
  domain,
  standard,
  secretive,
  system,
  builds,
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
      return { build: await builds.add(asked, { requestId, check }, context), index };
    },

    async updateIndex({ index, hidden, expireAfterSeconds, validateOnly, ...place }, context) {
      const at = names.collection(place);
      const look = cancellable(context);
      const { options = {} } = await requireStored(at, look);
      const found = await requireSpec(at, index, look);
      requireUnprotectedIndex(at, found);
      const change = {
        ...(hidden !== undefined && { hidden }),
        ...(expireAfterSeconds !== undefined && { expireAfterSeconds }),
      };
      const wanted = { ...found, ...change };
      requireHarmless(at, wanted);
      if (validateOnly) {
        await requirePossibleChange(system, { at, spec: found, options, change }, context);
        return { index: messageOf(at, wanted) };
      }
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
      return { collections, build: await builds.add(build, { requestId: "", check: async () => {} }, context) };
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
        build: await builds.add({ type: IndexBuildType.REINDEX, database, collection }, { requestId, check }, context),
      };
    },
  };
}

const isWaiting = ({ state }: Ensured): boolean => state === "waiting";

function requiredIndex({ database, collection }: NamedCollection, index: string): Error {
  return fail("INDEX_PROTECTED", "The service needs an index of these keys, which EnsureIndexes makes", {
    metadata: { database, collection, index },
  });
}

/** There is a server that says yes to changes that it does not make. */
function requireChanged({ database, collection }: NamedCollection, after: IndexSpec, wanted: IndexSpec): void {
  const isAsWanted = (option: string) => String(after[option] ?? false) === String(wanted[option] ?? false);
  if (["hidden", "expireAfterSeconds"].every(isAsWanted)) return;
  throw fail("MONGODB_FEATURE_MISSING", "This MongoDB has not changed the index", {
    metadata: { database, collection, index: after.name },
  });
}

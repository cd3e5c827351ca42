import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import type { Db, Document, MongoClient } from "mongodb";

import { type IndexKey, IndexKeyType } from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import type { DatabaseAdminService } from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import {
  type BalancerStatusSchema,
  type ShardedCollectionSchema,
  ShardedDatabaseSchema,
} from "../../../gen/lucid/admin/v1/sharding_pb.ts";
import { fail } from "../../errors.ts";
import type { CarryOut } from "../../schema/audited-call.ts";
import { cancellable, deadlineOf } from "../../schema/call-options.ts";
import { badRequest } from "../../schema/refusals.ts";
import { type MongodbFeatures, serverDatabases } from "../../stores/mongodb.ts";
import { type LookOptions, requireStored, whole } from "./catalog.ts";
import { keyMessages, keyOf } from "./definitions.ts";
import { collectionResource, type NamedCollection, type Names } from "./names.ts";
import { told } from "./refusals.ts";

/** What looking after a sharded cluster needs. */
export interface ShardingAdminOptions {
  readonly names: Names;
  readonly client: MongoClient;
  readonly features: (signal: AbortSignal) => Promise<MongodbFeatures>;
  readonly carryOut: CarryOut;
}

/** Databases, and sharded collections, that are listed. */
const mostListed = 1000;

const balancerResource = { type: "Balancer", name: "balancer" };

/**
 * The handlers that look after a sharded cluster, through its router. What is known of the cluster is read from the config database,
 * which the servers themselves keep; it is never written to.
 */
export function shardingAdmin({
  names,
  client,
  features,
  carryOut,
}: ShardingAdminOptions): Pick<
  ServiceImpl<typeof DatabaseAdminService>,
  "getShardingStatus" | "enableSharding" | "shardCollection" | "getBalancerStatus" | "startBalancer" | "stopBalancer"
> {
  const [admin, config] = [client.db("admin"), client.db("config")];

  /** Asked each time: a cluster may be put in the place of a replica set while the process runs. */
  const requireSharded = async (signal: AbortSignal): Promise<void> => {
    if ((await features(signal)).sharded) return;
    throw fail("MONGODB_NOT_SHARDED", "This MongoDB is not a sharded cluster");
  };

  const ask = (command: Document, { maxTimeMS, signal }: LookOptions) =>
    told({}, () => admin.command({ ...command, ...(maxTimeMS !== undefined && { maxTimeMS }) }, { signal }));

  const balancer = async (look: LookOptions): Promise<MessageInitShape<typeof BalancerStatusSchema>> => {
    const { mode, inBalancerRound, numBalancerRounds } = await ask({ balancerStatus: 1 }, look);
    return { enabled: mode !== "off", balancing: inBalancerRound === true, roundCount: whole(numBalancerRounds) };
  };

  /** Has the balancer run or stop, and says what it does then. */
  const switchBalancer = async (
    command: Document,
    validateOnly: boolean,
    context: Parameters<CarryOut>[0] & Parameters<typeof cancellable>[0],
  ) => {
    const look = cancellable(context);
    await requireSharded(look.signal);
    if (!validateOnly) {
      const limited = { ...command, ...deadlineOf(context) };
      await carryOut(context, balancerResource, () => told({}, () => admin.command(limited)));
    }
    return { balancer: await balancer(look) };
  };

  return {
    async getShardingStatus(_, context) {
      const look = cancellable(context);
      await requireSharded(look.signal);
      const [{ sharding }, { shards }] = await Promise.all([
        ask(sectionsOf("sharding"), look),
        ask({ listShards: 1 }, look),
      ]);
      const databases = await databasesOf(config, {}, look);
      const collections = await collectionsOf(config, {}, look);
      return {
        status: {
          configServers: String((sharding as Document | undefined)?.["configsvrConnectionString"] ?? ""),
          shards: (shards as Document[]).map(shardMessage).toSorted((one, other) => (one.shard < other.shard ? -1 : 1)),
          databases: databases
            .slice(0, mostListed)
            .map((found) => databaseMessage(found, collections.slice(0, mostListed))),
          truncated: databases.length > mostListed || collections.length > mostListed,
          balancer: await balancer(look),
        },
      };
    },

    async enableSharding({ database: asked, validateOnly }, context) {
      const { database } = names.database(asked);
      const look = cancellable(context);
      await requireSharded(look.signal);
      if (!validateOnly) {
        const command = { enableSharding: database, ...deadlineOf(context) };
        const resource = { type: ShardedDatabaseSchema.name, name: database };
        await carryOut(context, resource, () => told({}, () => admin.command(command)));
      }
      const [found] = await databasesOf(config, { _id: database }, look);
      if (found === undefined) return {};
      return { database: databaseMessage(found, await collectionsOf(config, within(database), look)) };
    },

    async shardCollection({ key: keys, unique, initialChunkCount, validateOnly, ...place }, context) {
      const at = names.collection(place);
      const key = shardKeyOf(keys, { unique, initialChunkCount });
      const look = cancellable(context);
      await requireSharded(look.signal);
      await requireStored(at, look);
      const [before] = await collectionsOf(config, { _id: at.path }, look);
      if (before !== undefined) requireSameKey(at, before, { key, unique });
      if (validateOnly || before !== undefined) {
        return before === undefined ? {} : { collection: collectionMessage(before) };
      }
      const command = {
        shardCollection: at.path,
        key,
        ...(unique && { unique }),
        ...(initialChunkCount > 0 && { numInitialChunks: initialChunkCount }),
        // Documents are spread by bytes, whatever the collection compares by.
        collation: { locale: "simple" },
        ...deadlineOf(context),
      };
      await carryOut(context, collectionResource(at), () =>
        told({ at, invalid: "SHARD_KEY_NOT_POSSIBLE", shards: true }, () => admin.command(command)),
      );
      const [after] = await collectionsOf(config, { _id: at.path }, look);
      return after === undefined ? {} : { collection: collectionMessage(after) };
    },

    async getBalancerStatus(_, context) {
      const look = cancellable(context);
      await requireSharded(look.signal);
      return { balancer: await balancer(look) };
    },

    startBalancer: ({ validateOnly }, context) => switchBalancer({ balancerStart: 1 }, validateOnly, context),
    stopBalancer: ({ validateOnly }, context) => switchBalancer({ balancerStop: 1 }, validateOnly, context),
  };
}

/** `serverStatus` with one section of those that cost the server something. */
function sectionsOf(only: string): Document {
  const costly = ["repl", "metrics", "locks", "wiredTiger", "tcmalloc", "flowControl"];
  return { serverStatus: 1, ...Object.fromEntries(costly.map((section) => [section, 0])), [only]: 1 };
}

/** Fails with `BAD_REQUEST` for a key that no server takes. */
function shardKeyOf(
  keys: readonly IndexKey[],
  { unique, initialChunkCount }: { readonly unique: boolean; readonly initialChunkCount: number },
): ReadonlyMap<string, unknown> {
  const key = keyOf(keys);
  const hashed = keys.filter(({ type }) => type === IndexKeyType.HASHED).length;
  const ordered = keys.filter(({ type }) => type === IndexKeyType.ASCENDING).length;
  const wrong = [
    ...(key.size < keys.length ? ["key must have each field once"] : []),
    ...(hashed > 1 || hashed + ordered < keys.length ? ["key must be ASCENDING, one of them perhaps HASHED"] : []),
    ...(unique && hashed > 0 ? ["unique must not be set beside a HASHED key"] : []),
    ...(initialChunkCount > 0 && hashed === 0 ? ["initial_chunk_count needs a HASHED key"] : []),
  ];
  if (wrong.length === 0) return key;
  throw badRequest(
    ...wrong.map((problem) => {
      const [field = "", ...words] = problem.split(" ");
      return { field, description: words.join(" ") };
    }),
  );
}

async function databasesOf(config: Db, filter: Document, options: LookOptions): Promise<Document[]> {
  const sorted = { sort: { _id: 1 as const }, limit: mostListed + 1 };
  const found = await told({}, () =>
    config
      .collection("databases")
      .find(filter, { ...sorted, ...options })
      .toArray(),
  );
  return found.filter(({ _id }) => !serverDatabases.has(String(_id)));
}

/** Servers before 5.0 keep what was dropped, and say so. */
async function collectionsOf(config: Db, filter: Document, options: LookOptions): Promise<Document[]> {
  const sorted = { sort: { _id: 1 as const }, limit: mostListed + 1 };
  const sharded = { ...filter, dropped: { $ne: true }, key: { $exists: true } };
  const found = await told({}, () =>
    config
      .collection("collections")
      .find(sharded, { ...sorted, ...options })
      .toArray(),
  );
  // Sessions are the server's own. Servers from 8.0 list collections here that are only pinned to a shard.
  return found.filter(({ _id, unsplittable }) => unsplittable !== true && !serverDatabases.has(placeOf(_id).database));
}

/** Collections of a database: their names are a range, whatever its own name is made of. */
function within(database: string): Document {
  return { _id: { $gte: `${database}.`, $lt: `${database}/` } };
}

/** No database has a dot in its name. */
function placeOf(path: unknown): { database: string; collection: string } {
  const [database = "", ...rest] = String(path).split(".");
  return { database, collection: rest.join(".") };
}

function shardMessage({ _id, host, state, draining, tags }: Document) {
  return {
    shard: String(_id),
    hosts: String(host),
    // Servers that never add one in steps say nothing.
    active: state === undefined || Number(state) === 1,
    draining: draining === true,
    zones: ((tags ?? []) as unknown[]).map(String),
  };
}

function databaseMessage(
  { _id, primary }: Document,
  collections: readonly Document[],
): MessageInitShape<typeof ShardedDatabaseSchema> {
  const database = String(_id);
  const own = collections.filter((each) => placeOf(each["_id"]).database === database);
  return { database, primaryShard: String(primary ?? ""), collections: own.map(collectionMessage) };
}

function collectionMessage({
  _id,
  key,
  unique,
  noBalance,
}: Document): MessageInitShape<typeof ShardedCollectionSchema> {
  return {
    collection: placeOf(_id).collection,
    key: keyMessages(new Map(Object.entries(key as Document))),
    unique: unique === true,
    balanced: noBalance !== true,
  };
}

function requireSameKey(
  { database, collection }: NamedCollection,
  before: Document,
  { key, unique }: { readonly key: ReadonlyMap<string, unknown>; readonly unique: boolean },
): void {
  const isSame = JSON.stringify(Object.entries(before["key"] as Document)) === JSON.stringify([...key]);
  if (isSame && (before["unique"] === true) === unique) return;
  throw fail("COLLECTION_ALREADY_SHARDED", `The collection ${collection} is sharded by another key`, {
    metadata: { database, collection },
  });
}

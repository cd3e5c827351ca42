import { create, fromBinary } from "@bufbuild/protobuf";
import { type Cluster, Redis } from "ioredis";

import {
  ConflictPolicy,
  type RestoredUnit,
  RestoredUnitSchema,
  SelectionSchema,
} from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import {
  type RedisRecord,
  RedisRecordSchema,
  type Unit,
  UnitSchema,
} from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { startRedis } from "../../../local/redis.ts";
import type { TargetRun, Work } from "../../../src/backup/contracts.ts";
import { redisSource, type RedisSourceOptions } from "../../../src/backup/redis/source.ts";
import { redisTarget } from "../../../src/backup/redis/target.ts";
import { type MemoryStreams, memoryStreams, quietWork } from "../mongodb/memory.ts";

/** A Redis of its own, since a backup is of all that there is. */
export async function ownRedis() {
  await using stack = new AsyncDisposableStack();
  const server = stack.use(await startRedis());
  const client = new Redis(server.uri);
  stack.defer(() => client.disconnect());
  await client.ping();
  const owned = stack.move();
  return { server, client, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

export function selectionOf(patterns: readonly string[] = []) {
  return create(SelectionSchema, { stores: [Store.REDIS], redisKeyPatterns: [...patterns] });
}

/** A backup, as the repository would have it. */
export interface TakenBackup {
  readonly units: readonly Unit[];
  readonly streams: MemoryStreams;
  readonly cut: { readonly redisReplicationIds?: string[]; readonly redisReplicationOffsets?: bigint[] };
}

interface BackupOptions extends Omit<RedisSourceOptions, "redis"> {
  readonly patterns?: readonly string[];
  readonly work?: Work;
  readonly streams?: MemoryStreams;
  readonly afterCut?: () => Promise<void>;
}

export async function backedUp(client: Redis | Cluster, options: BackupOptions = {}): Promise<TakenBackup> {
  const { patterns = [], streams = memoryStreams(), work = quietWork(), afterCut, ...source } = options;
  await using run = await redisSource({ redis: { client }, ...source }).begin(selectionOf(patterns), streams, work);
  await run.read();
  const cut = await run.cut();
  await afterCut?.();
  const units = await run.finish();
  // What the run returns is how a unit is initialised.
  return { units: units.map((unit) => create(UnitSchema, unit)), streams, cut };
}

/** All records of a backup. */
export function recordsOf({ units, streams }: TakenBackup): RedisRecord[] {
  return units
    .flatMap((unit) => unit.streams)
    .flatMap((stream) => streams.recordsOf(stream).map((record) => fromBinary(RedisRecordSchema, record)));
}

interface RestoreOptions {
  readonly patterns?: readonly string[];
  readonly renames?: readonly (readonly [from: string, to: string])[];
  readonly policy?: ConflictPolicy;
  readonly afterRestore?: () => Promise<void>;
}

export function prepared(
  client: Redis | Cluster,
  { units, streams }: TakenBackup,
  options: RestoreOptions = {},
): Promise<TargetRun> {
  const { patterns = [], renames = [], policy = ConflictPolicy.FAIL } = options;
  const plan = {
    units,
    selection: selectionOf(patterns),
    renames: renames.map(([from, to]) => ({
      store: Store.REDIS,
      from,
      to,
      $typeName: "lucid.admin.v1.Rename" as const,
    })),
    conflictPolicy: policy,
  };
  return redisTarget({ redis: { client } }).prepare(plan, streams, quietWork());
}

/** Restores and compares; what the report says then. */
export async function restored(
  client: Redis | Cluster,
  backup: TakenBackup,
  options: RestoreOptions = {},
): Promise<RestoredUnit[]> {
  await using run = await prepared(client, backup, options);
  await run.restore();
  await options.afterRestore?.();
  await run.compare();
  return reportOf(run);
}

export function reportOf(run: TargetRun): RestoredUnit[] {
  return run.report().map((unit) => create(RestoredUnitSchema, unit));
}

/** Every key of a database with its value and expiry, read in another way than backups read them. */
export async function contents(client: Redis, database = 0): Promise<Map<string, string>> {
  await using stack = new AsyncDisposableStack();
  const reader = client.duplicate({ db: database, protocol: 2 });
  stack.defer(() => reader.disconnect());
  const found = new Map<string, string>();
  for await (const page of reader.scanBufferStream({ count: 1000 })) {
    // The pages of a scan are arrays of keys.
    for (const key of page as Buffer[]) found.set(key.toString("hex"), await contentOf(reader, key));
  }
  return found;
}

/** To the millisecond, where the server tells it. */
async function expiryOf(reader: Redis, key: Buffer): Promise<unknown> {
  try {
    return await reader.pexpiretime(key);
  } catch (error) {
    if (!String(error).includes("unknown command")) throw error;
    return (await reader.pttl(key)) > 0 ? "at some time" : "never";
  }
}

async function contentOf(reader: Redis, key: Buffer): Promise<string> {
  const type = await reader.type(key);
  const value = await valueOf(reader, key, type);
  return JSON.stringify({ type, expires: await expiryOf(reader, key), value });
}

async function valueOf(reader: Redis, key: Buffer, type: string): Promise<unknown> {
  const hex = (values: unknown[]): unknown[] =>
    values.map((value) => (Buffer.isBuffer(value) ? value.toString("hex") : Array.isArray(value) ? hex(value) : value));
  switch (type) {
    case "string":
      return (await reader.getBuffer(key))?.toString("hex");
    case "list":
      return hex(await reader.lrangeBuffer(key, 0, -1));
    case "set":
      return hex(await reader.smembersBuffer(key))
        .map(String)
        .toSorted();
    case "zset":
      return hex(await reader.zrangeBuffer(key, 0, "-1", "WITHSCORES"));
    case "hash": {
      const flat = hex((await reader.callBuffer("HGETALL", key)) as unknown[]);
      return flat
        .flatMap((field, index) => (index % 2 === 0 ? [`${String(field)}:${String(flat[index + 1])}`] : []))
        .toSorted();
    }
    default: {
      const full = hex((await reader.callBuffer("XINFO", "STREAM", key, "FULL", "COUNT", 0)) as unknown[]);
      // How a stream is laid out, and when a consumer was last seen, is not part of what it is.
      return JSON.stringify(full)
        .replaceAll(/"(726164697874726565[0-9a-f]*|726164[0-9a-f]*)",\d+,?/g, "")
        .replaceAll(/"7365656e2d74696d65",\d+/g, "");
    }
  }
}

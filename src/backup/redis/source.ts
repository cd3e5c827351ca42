import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Cluster, Redis } from "ioredis";

import type { ConsistencyPointSchema, Selection } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import type { Stream, UnitSchema } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail } from "../../errors.ts";
import type { RecordSink, Source, SourceRun, Work } from "../contracts.ts";
import { each } from "../together.ts";
import { Connection, textOf } from "./connection.ts";
import { type Deployment, discover, infoFields, isMigrating, keyspace, type Primary } from "./deployment.ts";
import { type Copied, copyKeys } from "./key-copy.ts";

/** Values that take more memory than this are copied in parts: DUMP would keep everybody waiting for tens of milliseconds. */
const largeValueBytes = 16 * 1024 * 1024;

/** What Redis is backed up with. */
export interface RedisSourceOptions {
  readonly redis: { readonly client: Redis | Cluster };
  /** Whether a key is made of what else is backed up, and is left out. */
  readonly isDerived?: (key: Uint8Array) => boolean;
  /** Values that take more bytes of the server's memory are copied in parts; 16 MiB where not set. */
  readonly largeValueBytes?: number;
}

/**
 * Backs Redis up: every database of one server, or database 0 of all primaries of a cluster. Keys are found by SCAN and read
 * after the cut, each as it is at that moment: Redis has no point in time to read from, so that the copy is not of one. Keys
 * that are there all the while are in the backup exactly once. A server that is restarted, replaced by another one or whose
 * slots are moved meanwhile may not have shown all keys: `BACKUP_SOURCE_CHANGED`.
 */
export function redisSource(options: RedisSourceOptions): Source {
  return {
    store: Store.REDIS,
    async begin(selection, sink, work) {
      const stop = new AbortController();
      const signal = AbortSignal.any([work.signal, stop.signal]);
      const deployment = await discover(options.redis.client, signal);
      const run = new RedisRun({ ...options, deployment, selection, sink, work, stop, signal });
      await run.plan();
      return run;
    },
  };
}

interface RunOptions extends RedisSourceOptions {
  readonly deployment: Deployment;
  readonly selection: Selection;
  readonly sink: RecordSink;
  readonly work: Work;
  readonly stop: AbortController;
  readonly signal: AbortSignal;
}

/** What tells one history of writes from another. */
interface Replication {
  readonly id: string;
  readonly offset: bigint;
}

/** The keys of one database on one server. */
interface Part {
  readonly primary: Primary;
  readonly database: number;
}

class RedisRun implements SourceRun {
  readonly #options: RunOptions;
  #cut: readonly Replication[] = [];

  constructor(options: RunOptions) {
    this.#options = options;
  }

  /** Says how many keys there are, those that no pattern selects included. */
  async plan(): Promise<void> {
    const counts = new Map<number, number>();
    for (const primary of this.#options.deployment.primaries) {
      await using connection = await this.#connect(primary, 0);
      for (const [database, keys] of await keyspace(connection)) {
        counts.set(database, (counts.get(database) ?? 0) + keys);
      }
    }
    for (const [database, keys] of counts) this.#options.work.meter.plan(Store.REDIS, unitName(database), keys);
  }

  async read(): Promise<void> {}

  async cut(): Promise<MessageInitShape<typeof ConsistencyPointSchema>> {
    this.#cut = await this.#replications();
    return {
      redisReplicationIds: this.#cut.map(({ id }) => id),
      redisReplicationOffsets: this.#cut.map(({ offset }) => offset),
    };
  }

  async finish(): Promise<MessageInitShape<typeof UnitSchema>[]> {
    const parts: Part[] = [];
    for (const primary of this.#options.deployment.primaries) {
      await using connection = await this.#connect(primary, 0);
      for (const database of (await keyspace(connection)).keys()) parts.push({ primary, database });
    }
    const copies = new Map<number, { readonly streams: Stream[]; readonly copied: Copied[] }>();
    const { work, stop } = this.#options;
    await each(parts, { atOnce: work.parallelism, stop }, async (part) => {
      const { stream, copied } = await this.#copy(part);
      const copy = copies.get(part.database) ?? { streams: [], copied: [] };
      copies.set(part.database, copy);
      copy.streams.push(stream);
      copy.copied.push(copied);
    });
    this.#options.signal.throwIfAborted();
    await this.#requireUnchanged();
    return [...copies].toSorted(([one], [other]) => one - other).flatMap((copy) => this.#unit(...copy) ?? []);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#options.stop.abort(new Error("The backup of Redis is over"));
  }

  #connect(primary: Primary, database: number): Promise<Connection> {
    return Connection.open(primary.options, { database, signal: this.#options.signal });
  }

  async #copy({ primary, database }: Part): Promise<{ stream: Stream; copied: Copied }> {
    const { deployment, selection, sink, work } = this.#options;
    await using connection = await this.#connect(primary, database);
    await using writer = sink.open();
    const copied = await copyKeys({
      connection,
      facts: deployment.facts,
      isCluster: deployment.isCluster,
      patterns: selection.redisKeyPatterns.map((pattern) => Buffer.from(pattern)),
      isDerived: this.#options.isDerived ?? (() => false),
      writer,
      largeValueBytes: this.#options.largeValueBytes ?? largeValueBytes,
      note: (keys, bytes) => work.meter.add(Store.REDIS, unitName(database), keys, bytes),
    });
    return { stream: await writer.seal(), copied };
  }

  #unit(
    database: number,
    { streams, copied }: { readonly streams: Stream[]; readonly copied: readonly Copied[] },
  ): MessageInitShape<typeof UnitSchema> | undefined {
    const sum = (of: (one: Copied) => number): number => copied.reduce((total, one) => total + of(one), 0);
    const keys = sum((one) => one.keys);
    // What was planned may have been keys that no pattern selects, or that have vanished.
    this.#options.work.meter.plan(Store.REDIS, unitName(database), keys);
    if (keys === 0) return undefined;
    return {
      store: Store.REDIS,
      name: unitName(database),
      description: {
        case: "redisKeys",
        value: {
          serverVersion: this.#options.deployment.facts.version,
          rdbVersion: Math.max(...copied.map(({ rdbVersion }) => rdbVersion)),
          database,
          keyCount: BigInt(keys),
        },
      },
      streams,
      recordCount: BigInt(sum((one) => one.records)),
      recordBytes: BigInt(sum((one) => one.bytes)),
    };
  }

  async #replications(): Promise<Replication[]> {
    const { deployment } = this.#options;
    const replications: Replication[] = [];
    for (const primary of deployment.primaries) {
      await using connection = await this.#connect(primary, 0);
      if (deployment.isCluster && (await isMigrating(connection))) throw changed("slots are being moved");
      const fields = infoFields(textOf(await connection.one("INFO", "replication")));
      // A replica tells its own position in what it copies.
      const offset = fields.get("slave_repl_offset") ?? fields.get("master_repl_offset") ?? "0";
      replications.push({ id: fields.get("master_replid") ?? "", offset: BigInt(offset) });
    }
    return replications;
  }

  async #requireUnchanged(): Promise<void> {
    const { deployment, redis, signal } = this.#options;
    const now = await discover(redis.client, signal);
    if (now.topology !== deployment.topology) throw changed("slots were moved");
    const replications = await this.#replications();
    if (replications.some(({ id }, index) => id !== this.#cut[index]?.id)) throw changed("a server was replaced");
  }
}

function unitName(database: number): string {
  return `db${database}`;
}

function changed(what: string): Error {
  return fail("BACKUP_SOURCE_CHANGED", `Redis was changed while it was read, so that keys may be missing: ${what}`, {
    metadata: { store: "redis", change: what },
  });
}

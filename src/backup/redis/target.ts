import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Cluster, Redis } from "ioredis";

import type { RestoredUnitSchema } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import type { Stream } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { isReason } from "../../errors.ts";
import type { RecordSource, Target, TargetRun, Work } from "../contracts.ts";
import { each } from "../together.ts";
import { Router, serverTimeOffset } from "./deployment.ts";
import { KeyComparison } from "./key-comparison.ts";
import { KeyRestore, type KeyRestoreOptions } from "./key-restore.ts";
import { type KeyPlan, planKeys } from "./restore-plan.ts";
import type { RestoredDatabase } from "./restored-database.ts";

/** What Redis is restored with. */
export interface RedisTargetOptions {
  readonly redis: { readonly client: Redis | Cluster };
}

/**
 * Restores into Redis, one server or a cluster. Keys keep their database and get their expiry as a time; one that has expired
 * is passed over. DROP and OVERWRITE both replace a key that is there, SKIP keeps it. A large value is put together under an
 * interim name (`lucid_restore:…`) and renamed, so that nobody sees a part of it.
 */
export function redisTarget({ redis: { client } }: RedisTargetOptions): Target {
  return {
    store: Store.REDIS,
    async prepare(plan, source, work) {
      await using stack = new AsyncDisposableStack();
      const stop = new AbortController();
      // Before the connections are closed: they are opened with its signal.
      const signal = AbortSignal.any([work.signal, stop.signal]);
      const keyPlan = await planKeys(plan, { client, source, signal, stack });
      const offset = await serverTimeOffset(client, signal);
      return new RedisRestore({ client, plan: keyPlan, source, work, stop, signal, offset }, stack.move());
    },
  };
}

/** How long the removal of values that were not completed may take, in milliseconds. */
const cleanupMs = 30_000;

interface RunOptions {
  readonly client: Redis | Cluster;
  readonly plan: KeyPlan;
  readonly source: RecordSource;
  readonly work: Work;
  readonly stop: AbortController;
  readonly signal: AbortSignal;
  /** What the server's clock is ahead of this one, in milliseconds. */
  readonly offset: number;
}

class RedisRestore implements TargetRun {
  readonly #options: RunOptions;
  readonly #stack: AsyncDisposableStack;

  constructor(options: RunOptions, stack: AsyncDisposableStack) {
    this.#options = options;
    this.#stack = stack;
  }

  async restore(): Promise<void> {
    for (const database of this.#options.plan.databases) database.stage = "writing";
    await this.#eachStream(async (database, stream) => {
      await new KeyRestore(this.#keyOptions(database)).restore(stream);
    });
    for (const database of this.#options.plan.databases) database.stage = "in place";
  }

  async compare(): Promise<void> {
    await this.#eachStream((database, stream) => new KeyComparison(this.#keyOptions(database)).compare(stream));
    for (const database of this.#options.plan.databases) database.stage = "compared";
  }

  report(): MessageInitShape<typeof RestoredUnitSchema>[] {
    return this.#options.plan.databases.map((database) => database.report());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#options.stop.abort(new Error("The restore of Redis is over"));
    await this.#stack.disposeAsync();
    for (const database of this.#options.plan.databases) await this.#removeInterims(database);
  }

  async #removeInterims({ interims, description: { database } }: RestoredDatabase): Promise<void> {
    if (interims.size === 0) return;
    const { client, plan } = this.#options;
    const signal = AbortSignal.timeout(cleanupMs);
    try {
      await using router = new Router(client, plan.deployment, { database, signal });
      await router.run([...interims].map((key) => ({ key, commands: [["UNLINK", key]] })));
    } catch (error) {
      // They expire by themselves where the server is away; what made the restore end is worth more than this.
      if (!signal.aborted && !isReason(error, "STORE_UNAVAILABLE")) throw error;
    }
  }

  async #eachStream(work: (database: RestoredDatabase, stream: Stream) => Promise<void>): Promise<void> {
    const { plan, stop, signal, work: given } = this.#options;
    function* streams(): Generator<[RestoredDatabase, Stream]> {
      for (const database of plan.databases) for (const stream of database.unit.streams) yield [database, stream];
    }
    await each(streams(), { atOnce: given.parallelism, stop }, (one) => work(...one));
    signal.throwIfAborted();
  }

  #keyOptions(database: RestoredDatabase): KeyRestoreOptions {
    const { plan, source, signal, offset, work } = this.#options;
    return {
      plan,
      database,
      source,
      signal,
      now: () => Date.now() + offset,
      note: (records, bytes) => work.meter.add(Store.REDIS, database.unit.name, records, bytes),
    };
  }
}

import { randomUUID } from "node:crypto";

import type { Collection, Db } from "mongodb";

import { leasesOf } from "../../jobs/leases.ts";
import { pause } from "../../jobs/pause.ts";
import { recordsIn, stale, takeFrom } from "./carriers.ts";
import type { AuditLog } from "./log.ts";
import type { AuditLogger } from "./relay.ts";

/** Documents of one collection that are swept at once. */
const mostAtOnce = 200;

/** How long others leave the sweeping to the replica that has begun. */
const leaseMs = 10_000;

/** The right to sweep, which one replica has at a time. */
const right = "audit_sweeper";

/**
 * Moves records to the log that wait in documents for longer than `takeoverMs`: those of processes that died after a change, of
 * writes that arrived after their call had been given up, and of documents that a restore brought back. Two sweepers at once,
 * or a sweeper and a relay, do no harm: the log takes a record once. The lease only spares them the work.
 */
export function auditSweeper(options: {
  readonly log: AuditLog;
  readonly system: Db;
  readonly carriers: readonly Collection[];
  /** Settles what was intended before the time of an id. */
  readonly settle: (beforeId: string) => Promise<void>;
  /** Whether documents must be left as they are, since a restore compares them with its backup. */
  readonly isHeldUp: () => Promise<boolean>;
  readonly takeoverMs: number;
  readonly logger: AuditLogger;
}): AsyncDisposable & { start(): void } {
  const { log, system, carriers, settle, isHeldUp, takeoverMs, logger } = options;
  const leases = leasesOf(system, { leaseMs });
  const owner = randomUUID();
  const everyMs = Math.max(50, takeoverMs / 2);
  const rounds = pause();
  const closing = new AbortController();
  let sweeping: Promise<void> | undefined;

  const sweep = async (collection: Collection, limit: string): Promise<void> => {
    for (let found = mostAtOnce; found === mostAtOnce && !closing.signal.aborted;) {
      const documents = await stale(collection, limit, mostAtOnce);
      found = documents.length;
      const records = documents.flatMap(recordsIn).filter(({ audit_id }) => audit_id < limit);
      await log.append(records);
      const keys = documents.map((document) => ({ _id: document["_id"] as unknown }));
      const auditIds = records.map(({ audit_id }) => audit_id);
      if (found > 0) await takeFrom(collection, keys, auditIds);
    }
  };

  const run = async (): Promise<void> => {
    while (!closing.signal.aborted) {
      try {
        if ((await leases.take(right, owner)) !== undefined && !(await isHeldUp())) {
          const limit = idAt(Date.now() - takeoverMs);
          for (const collection of carriers) if (!closing.signal.aborted) await sweep(collection, limit);
          // What happened is carried then, and the next round finds it. Last, since it asks others than MongoDB.
          await settle(limit);
        }
      } catch (error) {
        logger.warn({ err: error }, "Audit records that wait could not be swept; trying again");
      }
      if (!closing.signal.aborted) await rounds.wait(everyMs);
    }
  };

  return {
    start() {
      sweeping ??= run();
    },
    async [Symbol.asyncDispose]() {
      closing.abort();
      rounds.wake();
      await sweeping;
    },
  };
}

/** The least id that is made at a time or later: version 7 UUIDs begin with theirs. */
function idAt(ms: number): string {
  const hex = Math.trunc(ms).toString(16).padStart(12, "0");
  return `${hex.slice(0, 8)}-${hex.slice(8)}-7000-8000-000000000000`;
}

import type { Collection, Db } from "mongodb";

import { auditLog, type AuditLog } from "./log.ts";
import { type AuditLogger, auditRelay, type AuditRelay } from "./relay.ts";
import { auditSweeper } from "./sweeper.ts";

/** The log and what brings records there. Disposing it moves what waits and stops. */
export interface Audit extends AsyncDisposable {
  readonly log: AuditLog;
  readonly relay: AuditRelay;
  /** Begins to sweep. */
  start(): void;
}

/** Opens the audit log. Does nothing before it is asked to, so the store may be away. */
export function openAudit(options: {
  /** The database of the log itself. */
  readonly system: Db;
  /** Collections whose documents carry records. */
  readonly carriers: readonly Collection[];
  /** Whether documents must be left as they are, since a restore compares them with its backup. */
  readonly isHeldUp: () => Promise<boolean>;
  readonly takeoverMs: number;
  readonly logger: AuditLogger;
}): Audit {
  const { system, carriers, logger } = options;
  const byName = new Map(carriers.map((collection) => [collection.collectionName, collection]));
  const log = auditLog(system, (conflict) => logger.warn(conflict, "The audit log is not as it should be"));
  const collection = (name: string): Collection => {
    const found = byName.get(name);
    if (found === undefined) throw new Error(`Documents of ${name} carry audit records, and nothing moves these`);
    return found;
  };
  const relay = auditRelay({ log, collection, logger });
  const sweeper = auditSweeper({ ...options, log });
  return {
    log,
    relay,
    start: () => sweeper.start(),
    async [Symbol.asyncDispose]() {
      await sweeper[Symbol.asyncDispose]();
      await relay[Symbol.asyncDispose]();
      log[Symbol.dispose]();
    },
  };
}

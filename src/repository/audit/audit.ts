import type { Collection, Db } from "mongodb";

import { jobsCollection } from "../../jobs/job-store.ts";
import type { CarryOut } from "../../schema/audited-call.ts";
import { auditIntents, intentsCollection, type Outcomes } from "./intents.ts";
import { auditLog, type AuditLog } from "./log.ts";
import { type AuditLogger, auditRelay, type AuditRelay } from "./relay.ts";
import { auditSweeper } from "./sweeper.ts";

/** The log and what brings records there. Disposing it moves what waits and stops. */
export interface Audit extends AsyncDisposable {
  readonly log: AuditLog;
  readonly relay: AuditRelay;
  readonly carryOut: CarryOut;
  /** Begins to sweep. */
  start(): void;
}

/** Opens the audit log. Does nothing before it is asked to, so the store may be away. */
export function openAudit(options: {
  /** The database of the log itself. */
  readonly system: Db;
  /** Collections of the domain whose documents carry records. */
  readonly carriers: readonly Collection[];
  /** Names of collections beside the log whose documents do too. */
  readonly systemCarriers: readonly string[];
  readonly outcomes: Outcomes;
  /** Whether documents must be left as they are, since a restore compares them with its backup. */
  readonly isHeldUp: () => Promise<boolean>;
  readonly takeoverMs: number;
  /** Longest that an append waits for the unique indexes of the log, in milliseconds. */
  readonly waitMs: number;
  readonly logger: AuditLogger;
}): Audit {
  const { system, outcomes, logger } = options;
  const beside = [jobsCollection, ...options.systemCarriers];
  const log = auditLog(system, {
    carriers: [...beside, intentsCollection],
    tell: (conflict) => logger.warn(conflict, "The audit log is not as it should be"),
    waitMs: options.waitMs,
  });
  const intents = auditIntents(system, { log, outcomes });
  const carriers = [...options.carriers, ...beside.map((name) => system.collection(name)), intents.collection];
  const byName = new Map(carriers.map((each) => [each.collectionName, each]));
  const collection = (name: string): Collection => {
    const found = byName.get(name);
    if (found === undefined) throw new Error(`Documents of ${name} carry audit records, and nothing moves these`);
    return found;
  };
  const relay = auditRelay({ log, collection, logger });
  const sweeper = auditSweeper({ ...options, log, carriers, settle: (beforeId) => intents.settle(beforeId) });
  return {
    log,
    relay,
    carryOut: (...change) => intents.carryOut(...change),
    start: () => sweeper.start(),
    async [Symbol.asyncDispose]() {
      await sweeper[Symbol.asyncDispose]();
      await relay[Symbol.asyncDispose]();
      await log[Symbol.asyncDispose]();
    },
  };
}

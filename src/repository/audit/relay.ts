import type { Document } from "bson";
import type { Collection } from "mongodb";

import type { Carrier, EndedCall } from "../../schema/audited-call.ts";
import { takeFrom, waitingIn } from "./carriers.ts";
import type { AuditLog } from "./log.ts";
import type { CarriedRecord } from "./record.ts";

/** Where the relay tells what went wrong that no caller can act on. */
export interface AuditLogger {
  warn(facts: object, message: string): void;
}

/** Moves records from the documents that carry them to the log, off the path of calls. Disposing it moves what waits. */
export interface AuditRelay extends AsyncDisposable {
  ended(call: EndedCall): void;
  /** Resolves when the calls that have ended are in the log, or cannot be brought there now. Never fails. */
  settled(): Promise<void>;
}

/** How long calls are collected: statements cost more than records do, and until then a record is safe in its document. */
const windowMs = 250;

/** Writes that are moved at once, and those of one call more; a refused call counts as one. */
const mostAtOnce = 500;

/** Calls that wait. More are forgotten here: changes are found by the sweeper, refusals are lost. */
const mostWaiting = 10_000;

/** Refusals that are logged at once. Whoever makes bad calls all the time does not fill the log with all of them. */
const mostRefusals = 50;

/** How long until a batch that failed is tried again, and how often. What is left then is the sweeper's. */
const retryMs = 1000;
const mostTries = 3;

export function auditRelay(options: {
  readonly log: AuditLog;
  /** The collection of a name that calls give. */
  readonly collection: (name: string) => Collection;
  readonly logger: AuditLogger;
}): AuditRelay {
  const { log, collection, logger } = options;
  const waiting: EndedCall[] = [];
  let working: Promise<void> | undefined;
  let timer: NodeJS.Timeout | undefined;
  let tries = 0;
  let [ended, done] = [0, 0];
  let isClosed = false;

  const move = async (calls: readonly EndedCall[]): Promise<void> => {
    const carriers = calls.flatMap(({ attempted }) => attempted);
    const stored = await storedRecords(carriers, collection);
    const records: CarriedRecord[] = [];
    let refusals = 0;
    for (const { attempted, outcome, refusal } of calls) {
      const changed = new Set(attempted.map(({ record }) => record).filter((record) => stored.has(idOf(record))));
      // The interceptor began them all.
      for (const record of changed) records.push({ ...(record as CarriedRecord), outcome });
      if (changed.size > 0 || refusal === undefined) continue;
      if (refusals++ < mostRefusals) records.push(refusal as CarriedRecord);
    }
    if (records.length === 0) return;
    await log.append(records);
    for (const [name, { keys, auditIds }] of byCollection(carriers, ({ record, applied }) => {
      return applied !== false && stored.has(idOf(record));
    })) {
      await takeFrom(collection(name), keys, [...auditIds]);
    }
    if (refusals > mostRefusals) {
      logger.warn({ refusals: refusals - mostRefusals }, "More calls were refused at once than the audit log takes");
    }
  };

  const work = async (): Promise<void> => {
    let writes = 0;
    const end = waiting.findIndex(({ attempted }) => (writes += Math.max(1, attempted.length)) >= mostAtOnce);
    const calls = waiting.splice(0, end === -1 ? waiting.length : end + 1);
    try {
      await move(calls);
      tries = 0;
    } catch (error) {
      tries++;
      logger.warn({ err: error, calls: calls.length }, "Audit records could not be moved to the log yet");
      if (tries < mostTries) {
        waiting.unshift(...calls);
        return;
      }
      tries = 0;
    }
    done += calls.length;
  };

  /** Moves one batch, unless one is on its way already. */
  const begin = (): Promise<void> => {
    clearTimeout(timer);
    timer = undefined;
    working ??= work().finally(() => {
      working = undefined;
      if (waiting.length > 0) schedule(tries > 0 ? retryMs : waiting.length < mostAtOnce ? windowMs : 0);
    });
    return working;
  };

  function schedule(ms: number): void {
    if (isClosed) return;
    timer ??= setTimeout(() => void begin(), ms);
    timer.unref();
  }

  return {
    ended(call) {
      // The store is being closed. Its record is in the document, for the sweeper.
      if (isClosed) return;
      ended++;
      if (waiting.length >= mostWaiting) {
        waiting.shift();
        done++;
      }
      waiting.push(call);
      if (working !== undefined) return;
      if (waiting.length < mostAtOnce) schedule(windowMs);
      else if (tries === 0) void begin();
    },

    async settled() {
      const last = ended;
      for (;;) {
        await begin();
        if (done >= last || tries > 0) return;
      }
    },

    async [Symbol.asyncDispose]() {
      await this.settled();
      isClosed = true;
      clearTimeout(timer);
    },
  };
}

/** The ids of those records that are stored: what writes have said, and where they could not, what the documents say. */
async function storedRecords(
  carriers: readonly Carrier[],
  collection: (name: string) => Collection,
): Promise<Set<string>> {
  const stored = new Set(carriers.filter(({ applied }) => applied === true).map(({ record }) => idOf(record)));
  const unknown = byCollection(carriers, ({ record, applied }) => applied === undefined && !stored.has(idOf(record)));
  for (const [name, { keys, auditIds }] of unknown) {
    for (const id of await waitingIn(collection(name), keys, auditIds)) stored.add(id);
  }
  return stored;
}

function byCollection(carriers: readonly Carrier[], isMeant: (carrier: Carrier) => boolean) {
  const found = new Map<string, { readonly keys: Document[]; readonly auditIds: Set<string> }>();
  for (const carrier of carriers) {
    if (!isMeant(carrier)) continue;
    const group = found.get(carrier.collection) ?? { keys: [], auditIds: new Set() };
    found.set(carrier.collection, group);
    group.keys.push(carrier.key);
    group.auditIds.add(idOf(carrier.record));
  }
  return found;
}

function idOf(record: Document): string {
  return String(record["audit_id"]);
}

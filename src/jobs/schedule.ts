import { randomUUIDv7 } from "node:crypto";

import type { Jobs } from "./jobs.ts";

/** What is asked for again and again. */
export interface Schedule {
  readonly jobs: Pick<Jobs, "create">;
  readonly kind: string;
  /** What is to be done, in the encoding of the job's kind. */
  readonly spec: Uint8Array;
  /** Tells this schedule from others of the kind, also from itself with other settings. */
  readonly name: string;
  /** Hours between two jobs; 0 for none. */
  readonly everyHours: number;
  /** Gets what keeps it from being asked for; it is tried again. */
  readonly failed: (error: unknown) => void;
}

const hourMs = 3_600_000;
const firstMs = 60_000;

/** Asks for a job again and again; however many replicas do, there is one each time. Disposing it stops that. */
export function schedule({ jobs, kind, spec, name, everyHours, failed }: Schedule): Disposable {
  if (everyHours === 0) return { [Symbol.dispose]: () => undefined };
  const everyMs = everyHours * hourMs;
  const ask = async (): Promise<void> => {
    // The same in all replicas, and unique among jobs.
    const requestId = `${name}/${everyHours}/${Math.floor(Date.now() / everyMs)}`;
    await jobs.create(kind, { jobId: randomUUIDv7(), spec, requestId });
  };
  // Looked at more often than it is due, so that nothing is missed while no replica runs.
  const lookMs = Math.min(everyMs, hourMs);
  let timer: NodeJS.Timeout;
  let isOver = false;
  const wait = (ms: number): void => {
    if (isOver) return;
    timer = setTimeout(() => {
      ask()
        .catch(failed)
        .finally(() => wait(lookMs));
    }, ms).unref();
  };
  wait(Math.min(lookMs, firstMs));
  return {
    [Symbol.dispose]() {
      isOver = true;
      clearTimeout(timer);
    },
  };
}

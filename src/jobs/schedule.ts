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
  /** Whether what it needs is there; where it is not, the job is put off. Always where not given. */
  readonly mayBegin?: (() => Promise<boolean>) | undefined;
  /** Gets what keeps it from being asked for; it is tried again. */
  readonly failed: (error: unknown) => void;
}

const hourMs = 3_600_000;
/** Wait before the first look, and before the next one where a job was put off, in milliseconds. */
const soonMs = 60_000;

/** Asks for a job again and again; however many replicas do, there is one each time. Disposing it stops that. */
export function schedule({ jobs, kind, spec, name, everyHours, mayBegin, failed }: Schedule): Disposable {
  if (everyHours === 0) return { [Symbol.dispose]: () => undefined };
  const everyMs = everyHours * hourMs;
  // Looked at more often than it is due, so that nothing is missed while no replica runs.
  const lookMs = Math.min(everyMs, hourMs);
  const nextMs = Math.min(lookMs, soonMs);
  let isOver = false;

  /** Asks for it where that can be. Returns the wait before the next look. */
  const ask = async (): Promise<number> => {
    try {
      if (mayBegin !== undefined && !(await mayBegin())) return nextMs;
      // The same in all replicas, and unique among jobs.
      const requestId = `${name}/${everyHours}/${Math.floor(Date.now() / everyMs)}`;
      await jobs.create(kind, { jobId: randomUUIDv7(), spec, requestId });
    } catch (error) {
      if (!isOver) failed(error);
    }
    return lookMs;
  };

  let timer: NodeJS.Timeout;
  const wait = (ms: number): void => {
    if (isOver) return;
    timer = setTimeout(() => void ask().then(wait), ms).unref();
  };
  wait(nextMs);
  return {
    [Symbol.dispose]() {
      isOver = true;
      clearTimeout(timer);
    },
  };
}

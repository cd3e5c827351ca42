import { setTimeout as sleep } from "node:timers/promises";

import { fail } from "../../errors.ts";

/** Runs work on the volume of a name, and fails with `VOLUME_STORAGE_UNAVAILABLE` where its file system does not answer. */
export type Patience = <T>(name: string, work: () => Promise<T>, tooLate?: (value: T) => void) => Promise<T>;

/** The first wait may be over because this whole process stood still; in the second one answers arrive. */
const waitsMs = [5000, 5000];

/**
 * A mount whose server hangs ends no call: whoever asks it waits, and so does one of the few threads that Node asks files with. So it is not
 * asked again before it has answered.
 */
export function patience(): Patience {
  const hanging = new Set<string>();
  return async (name, work, tooLate = () => undefined) => {
    if (hanging.has(name)) throw unanswered(name);
    const working = work();
    const answered = new AbortController();
    const late = waitAll(answered.signal);
    try {
      const first = await Promise.race([working.then((value) => ({ value })), late]);
      if (first !== undefined) return first.value;
    } finally {
      answered.abort();
    }
    hanging.add(name);
    void working.then(tooLate, () => undefined).finally(() => hanging.delete(name));
    throw unanswered(name);
  };
}

async function waitAll(signal: AbortSignal): Promise<undefined> {
  // Aborted: the race is over, and nobody looks.
  for (const ms of waitsMs) await sleep(ms, undefined, { signal }).catch(() => undefined);
  return undefined;
}

function unanswered(name: string): Error {
  const metadata = { volume: name };
  return fail("VOLUME_STORAGE_UNAVAILABLE", `The file system of the volume ${name} does not answer`, { metadata });
}

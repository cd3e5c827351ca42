import { setImmediate } from "node:timers/promises";

/** How long a piece of work may keep all others waiting. */
const turnMs = 5;

/** For long work that is done in steps: awaited between them, it lets others have their turns, and says whether it did. */
export function turns(): () => Promise<boolean> {
  let ends = performance.now() + turnMs;
  return async () => {
    if (performance.now() < ends) return false;
    await setImmediate();
    ends = performance.now() + turnMs;
    return true;
  };
}

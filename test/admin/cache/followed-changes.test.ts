import { expect, test } from "vitest";

import { type DocumentChange, followedChanges } from "../../../src/admin/cache/followed-changes.ts";

const mark: DocumentChange = { id: "", revision: 0n };

/** Changes that are told when the test says so. */
function told() {
  const queue: DocumentChange[] = [];
  let wake = (): void => {};
  return {
    tell(...changes: readonly DocumentChange[]): void {
      queue.push(...changes);
      wake();
    },
    async *follow(signal: AbortSignal): AsyncGenerator<DocumentChange> {
      signal.addEventListener("abort", () => wake());
      while (!signal.aborted) {
        const next = queue.shift();
        if (next !== undefined) yield next;
        else await new Promise<void>((resolve) => (wake = resolve));
      }
    },
  };
}

test("many changes are dealt with at once, and nothing is trusted before all of them are, nor after one was not", async () => {
  const source = told();
  let [atOnce, most, dealt] = [0, 0, 0];
  let isAway = false;
  let servers = "one";
  const holding = Promise.withResolvers<void>();
  await using changes = followedChanges({
    follow: (signal) => source.follow(signal),
    now: async () => ({ atMs: 1000 + dealt, servers }),
    async changed() {
      most = Math.max(most, ++atOnce);
      await holding.promise;
      atOnce--;
      if (isAway) throw new Error("away");
      dealt++;
    },
  });
  expect(changes.since()).toBeUndefined();
  source.tell(...Array.from({ length: 100 }, (_, index) => ({ id: `id ${index}`, revision: 1n })), mark);
  await expect.poll(() => most).toBe(16);
  expect(changes.since()).toBeUndefined();
  holding.resolve();
  await expect.poll(() => changes.since()).toBe(1100);
  expect(most).toBe(16);

  // Another server may have copies again that were taken out of the one before.
  source.tell({ id: "later", revision: 2n }, mark);
  await expect.poll(() => dealt).toBe(101);
  source.tell(mark);
  expect(changes.since()).toBe(1100);
  servers = "another";
  source.tell(mark);
  await expect.poll(() => changes.since()).toBe(1101);

  // No mark is needed for this to be known.
  isAway = true;
  source.tell({ id: "lost", revision: 2n });
  await expect.poll(() => changes.since()).toBeUndefined();
  isAway = false;
  source.tell({ id: "seen", revision: 2n }, mark, mark);
  await expect.poll(() => changes.since(), { timeout: 60_000 }).toBeGreaterThan(1000);
});

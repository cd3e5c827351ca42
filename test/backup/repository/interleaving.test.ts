import * as fc from "fast-check";
import { expect, test } from "vitest";

import { openRepositoryIn } from "../../../src/backup/repository/repository.ts";
import type { ObjectStorage } from "../../../src/backup/repository/storage.ts";
import { isReason } from "../../../src/errors.ts";
import { memoryStorage } from "./memory-storage.ts";
import { idsIn, intercepted, makeRecords, never, takeBackup } from "./support.ts";

const RUNS = 120;
const data = Array.from({ length: 3 }, (_, i) => makeRecords(3, i + 1, 200));

/**
 * Lets processes take turns at a storage, one call at a time. Whose turn it is comes from `choose`; a process goes on for a while
 * before another one comes, since what goes wrong is a whole backup between two calls of a collector, or the other way round.
 */
class Turns {
  readonly #waiting = new Map<string, (() => void)[]>();
  #wake: (() => void) | undefined;

  /** The storage as the process of that name sees it. */
  storageOf(name: string, storage: ObjectStorage): ObjectStorage {
    this.#waiting.set(name, []);
    return intercepted(storage, () => {
      const turn = new Promise<void>((resolve) => this.#waiting.get(name)?.push(resolve));
      this.#wake?.();
      return turn;
    });
  }

  /** The process has ended: nobody waits for its calls. */
  ended(name: string): void {
    this.#waiting.delete(name);
    this.#wake?.();
  }

  async run(choose: (names: readonly string[], last: string | undefined) => string): Promise<void> {
    let last: string | undefined;
    while (this.#waiting.size > 0) {
      // Only when every process stands at a call is it known who can go on.
      if ([...this.#waiting.values()].some((calls) => calls.length === 0)) {
        await new Promise<void>((resolve) => (this.#wake = resolve));
        continue;
      }
      last = choose([...this.#waiting.keys()], last);
      this.#waiting.get(last)?.shift()?.();
    }
  }
}

test("whatever the order of their calls, writers, deleters and collectors leave every backup whole and nothing for ever", async () => {
  const reached = { verified: 0 };
  const scenario = fc.record({
    seed: fc.integer({ min: 1, max: 2 ** 31 }),
    patience: fc.constantFrom(0.5, 0.8, 0.9, 0.97),
    writers: fc.array(fc.array(fc.nat({ max: 2 }), { minLength: 1, maxLength: 2 }), { minLength: 1, maxLength: 2 }),
    deletesNew: fc.boolean(),
    collectors: fc.integer({ min: 0, max: 2 }),
  });
  await fc.assert(
    fc.asyncProperty(scenario, async ({ seed, patience, writers, deletesNew, collectors }) => {
      const storage = memoryStorage();
      await using outside = await openRepositoryIn(storage);
      // Of its pack what is left is little, once y is deleted as well: new backups then leave it to be removed.
      await takeBackup(outside, "z", data);
      await takeBackup(outside, "x", [data[0] ?? []]);
      await takeBackup(outside, "y", [data[0] ?? [], data[1] ?? []]);
      await outside.delete("z", { validateOnly: false }, never);
      const turns = new Turns();
      const running: Promise<void>[] = [];
      const process = (
        name: string,
        work: (repository: Awaited<ReturnType<typeof openRepositoryIn>>) => Promise<unknown>,
      ) => {
        const view = turns.storageOf(name, storage);
        running.push(
          openRepositoryIn(view)
            .then(work)
            .then(() => undefined)
            .finally(() => turns.ended(name)),
        );
      };
      const deleting = (backupId: string) => (repository: Awaited<ReturnType<typeof openRepositoryIn>>) =>
        repository.delete(backupId, { validateOnly: false }, never).catch((error: unknown) => {
          if (!isReason(error, "BACKUP_NOT_FOUND")) throw error; // the writer has not sealed it yet
        });
      writers.forEach((sets, i) =>
        process(`writer ${i}`, (r) =>
          takeBackup(
            r,
            `w${i}`,
            sets.map((set) => data[set] ?? []),
          ),
        ),
      );
      process("deleter x", deleting("x"));
      process("deleter y", deleting("y"));
      if (deletesNew) process("deleter w0", deleting("w0"));
      for (let i = 0; i < collectors; i++) process(`collector ${i}`, (r) => r.collect(never));

      const random = randomFrom(seed);
      const ended = Promise.all(running);
      ended.catch(() => undefined); // awaited below, after the turns
      await turns.run((names, last) => {
        if (last !== undefined && names.includes(last) && random() < patience) return last;
        return names[Math.floor(random() * names.length)] ?? "";
      });
      await ended;

      for (const backupId of await idsIn(outside)) {
        await outside.verify(await outside.get(backupId, never), {}, never);
        reached.verified++;
      }
      for (const backupId of await idsIn(outside)) await outside.delete(backupId, { validateOnly: false }, never);
      await outside.collect(never);
      expect([...storage.objects.keys()].filter((name) => /^(packs|indexes|condemned|writers)\//.test(name))).toEqual(
        [],
      );
    }),
    { seed: 4711, numRuns: RUNS },
  );
  expect(reached.verified).toBeGreaterThan(RUNS / 2);
});

function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b_79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

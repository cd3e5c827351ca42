import { expect, test } from "vitest";

import { schedule } from "../../src/jobs/schedule.ts";

/** A third of a second, in hours. */
const often = 0.0001;

test("a job is put off while what it needs is not there, and asked for by one name when it is", async () => {
  const asked: string[] = [];
  const failures: unknown[] = [];
  let [looks, isThere] = [0, false];
  const jobs = {
    create: (kind: string, { requestId = "" }: { readonly requestId?: string }) => {
      asked.push(`${kind} ${requestId}`);
      return Promise.reject(new Error("busy"));
    },
  };
  using _ = schedule({
    jobs,
    kind: "k",
    spec: new Uint8Array(),
    name: "n",
    everyHours: often,
    mayBegin: async () => {
      looks += 1;
      return isThere;
    },
    failed: (error) => failures.push(error),
  });
  await expect.poll(() => looks, { timeout: 60_000 }).toBeGreaterThan(1);
  expect(asked).toEqual([]);
  isThere = true;
  // One that could not be asked for is tried again.
  await expect.poll(() => asked.length, { timeout: 60_000 }).toBeGreaterThan(1);
  expect(asked[0]).toMatch(/^k n\/0\.0001\/\d+$/);
  expect(failures.length).toBeGreaterThan(0);
});

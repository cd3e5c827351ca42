import { expect, test } from "vitest";

import { inOrder } from "../../../src/search/sync/in-order.ts";

test("pieces are done in their order, and no more of them run than there is room for", async () => {
  const pieces = inOrder(2);
  const [first, second] = [Promise.withResolvers<string>(), Promise.withResolvers<string>()];
  const done: string[] = [];
  await pieces.begin(
    () => first.promise,
    (result) => void done.push(result),
  );
  await pieces.room();
  await pieces.begin(
    () => second.promise,
    (result) => void done.push(result),
  );
  let hasRoom = false;
  const room = pieces.room().then(() => (hasRoom = true));
  second.resolve("second");
  await second.promise;
  expect([hasRoom, done]).toEqual([false, []]);
  first.resolve("first");
  await room;
  await pieces.idle();
  expect(done).toEqual(["first", "second"]);
});

test("what failed is told, and its end waits for what runs beside it", async () => {
  const pieces = inOrder(2);
  const second = Promise.withResolvers<string>();
  const done: string[] = [];
  const broken = new Error("broken");
  await pieces.begin(
    () => Promise.reject(broken),
    () => void done.push("first"),
  );
  await pieces.begin(
    () => second.promise,
    () => void done.push("second"),
  );
  await expect(pieces.room()).rejects.toBe(broken);
  let hasEnded = false;
  const ended = pieces.ended().then(() => (hasEnded = true));
  await Promise.resolve();
  expect(hasEnded).toBe(false);
  second.resolve("second");
  await ended;
  // What came after it is not done: it was begun in the belief that the first succeeds.
  expect(done).toEqual([]);
});

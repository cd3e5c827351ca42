import { createHash } from "node:crypto";

import fc from "fast-check";
import { expect, test } from "vitest";

import { merkleRoot, proveInclusion } from "../../src/proofs/merkle.ts";
import { proveMany } from "../../src/proofs/multi-proof.ts";
import { keptTrees } from "../../src/repository/kept-trees.ts";
import { fanOut } from "../../src/repository/merkle-cells.ts";

/** More than one cell of the second level. */
const most = fanOut ** 2 + 3 * fanOut + 5;
const leaves = Array.from({ length: most }, (_, at) => createHash("sha256").update(`leaf ${at}`).digest());

/** Keeps the tree of the first leaves; returns its root. */
async function keepTree(trees: ReturnType<typeof keptTrees>, size: number): Promise<Uint8Array> {
  const { root } = await merkleRoot(leaves.slice(0, size));
  const tree = trees.grow(size);
  for (const leaf of leaves.slice(0, size)) tree.add(leaf);
  tree.keep(root);
  return root;
}

/** Gives leaves as a store does, with those that were changed; counts how many it is asked for. */
function store(changed: ReadonlyMap<number, Buffer> = new Map()) {
  const asked = new Set<number>();
  const leavesAt = async (indexes: readonly number[]) => {
    for (const index of indexes) asked.add(index);
    return new Map(indexes.map((index) => [index, changed.get(index) ?? leaves[index] ?? Buffer.alloc(0)]));
  };
  return { asked, leavesAt };
}

const places = fc
  .integer({ min: 1, max: most })
  .chain((size) => fc.record({ size: fc.constant(size), index: fc.integer({ min: 0, max: size - 1 }) }));

test("the proof of a kept tree is that of all its leaves, and asks for few of them", async () => {
  const examples = [fanOut - 1, fanOut, fanOut + 1, fanOut ** 2, most].map((size) => [{ size, index: size - 1 }]);
  await fc.assert(
    fc.asyncProperty(places, async ({ size, index }) => {
      const trees = keptTrees(1_000_000);
      const root = await keepTree(trees, size);
      const { asked, leavesAt } = store();
      const { proof, leaf } = await proveInclusion(leaves, { size, index });
      expect(await trees.prove({ root, size, index }, leavesAt)).toEqual({ proof, leaf });
      expect(asked.size).toBeLessThan(2 * fanOut);
    }),
    { numRuns: 50, examples: examples as [{ size: number; index: number }][] },
  );
});

test("the proof of some leaves of a kept tree is that of all its leaves, and asks for what it is made of alone", async () => {
  const some = places.chain(({ size, index }) =>
    fc.record({
      size: fc.constant(size),
      others: fc.uniqueArray(fc.integer({ min: 0, max: size - 1 }), { maxLength: 8 }),
      index: fc.constant(index),
    }),
  );
  await fc.assert(
    fc.asyncProperty(some, async ({ size, index, others }) => {
      const indexes = [...new Set([index, ...others])].toSorted((one, other) => one - other);
      const trees = keptTrees(1_000_000);
      const root = await keepTree(trees, size);
      const { asked, leavesAt } = store();
      const made = await trees.proveMany({ root, size, indexes }, leavesAt);
      if (made === undefined) {
        // It would have been most of the leaves.
        expect([asked.size, size < 4 * fanOut * indexes.length]).toEqual([0, true]);
        return;
      }
      const { proof, leaves: proven } = await proveMany(leaves, { size, indexes });
      expect(made).toEqual({ proof, leaves: proven });
      expect(asked.size).toBeLessThan(2 * fanOut * indexes.length);
      const changed = store(new Map([[index, Buffer.alloc(32)]]));
      expect(await trees.proveMany({ root, size, indexes }, changed.leavesAt)).toBeUndefined();
      expect(await trees.proveMany({ root, size, indexes }, leavesAt)).toBeUndefined();
    }),
    { numRuns: 40 },
  );
});

test("many leaves are read a few thousand at once", async () => {
  const size = 3 * fanOut ** 2;
  const many = Array.from({ length: size }, (_, at) => leaves[at % most] ?? Buffer.alloc(32));
  const trees = keptTrees(1_000_000);
  const tree = trees.grow(size);
  for (const leaf of many) tree.add(leaf);
  const { root } = await merkleRoot(many);
  tree.keep(root);
  const indexes = Array.from({ length: 90 }, (_, at) => at * fanOut);
  const reads: number[] = [];
  const made = await trees.proveMany({ root, size, indexes }, async (wanted) => {
    reads.push(wanted.length);
    return new Map(wanted.map((index) => [index, many[index] ?? Buffer.alloc(32)]));
  });
  expect(made).toEqual(
    await proveMany(many, { size, indexes }).then(({ proof, leaves: proven }) => ({ proof, leaves: proven })),
  );
  expect(reads.length).toBe(2);
  expect(Math.max(...reads)).toBeLessThan(4000 + 2 * fanOut);
});

test("leaves that are no longer those of the tree prove nothing, and the tree is forgotten", async () => {
  await fc.assert(
    fc.asyncProperty(places, async ({ size, index }) => {
      const trees = keptTrees(1_000_000);
      const root = await keepTree(trees, size);
      const changed = store(new Map([[index, Buffer.alloc(32)]]));
      expect(await trees.prove({ root, size, index }, changed.leavesAt)).toBeUndefined();
      const whole = store();
      expect(await trees.prove({ root, size, index }, whole.leavesAt)).toBeUndefined();
      expect(whole.asked.size).toBe(0);
    }),
    { numRuns: 20 },
  );
});

test("of more trees than there is room for, those that were used last are kept", async () => {
  const [size, index] = [most, 7];
  const bytes = Math.floor(size / fanOut) * 32 + Math.floor(size / fanOut ** 2) * 32;
  const trees = keptTrees(2 * bytes);
  const isKept = async (at: { size: number; root: Uint8Array }) =>
    (await trees.prove({ ...at, index }, store().leavesAt)) !== undefined;
  const made = [];
  for (const less of [0, 1, 2]) {
    const tree = { size: size - less, root: await keepTree(trees, size - less) };
    made.push(tree);
    // The first one is used again, so the second one is the one to go.
    expect(await isKept(made[0] ?? tree)).toBe(true);
  }
  const [first, second, third] = await Promise.all(made.map(isKept));
  expect([first, second, third]).toEqual([true, false, true]);
});

test("a tree that there is no room for at all takes none, and drives out no other", async () => {
  const trees = keptTrees(20 * 32);
  const [small, large] = [10 * fanOut, 30 * fanOut];
  const root = await keepTree(trees, small);
  const rootOfLarge = await keepTree(trees, large);
  const { leavesAt } = store();
  expect(await trees.prove({ root, size: small, index: 0 }, leavesAt)).toBeDefined();
  expect(await trees.prove({ root: rootOfLarge, size: large, index: 0 }, leavesAt)).toBeUndefined();
  // The largest tree that a manifest may have: a gigabyte of cells.
  const before = process.memoryUsage().arrayBuffers;
  trees.grow(2 ** 31 - 1);
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 ** 20);
});

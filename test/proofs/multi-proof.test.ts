import { createHash } from "node:crypto";

import fc from "fast-check";
import { expect, test } from "vitest";

import { emptyRoot, hex, leafHash, merkleRoot, proveInclusion, verifyInclusion } from "../../src/proofs/merkle.ts";
import { type MultiProof, proveMany, verifyMany } from "../../src/proofs/multi-proof.ts";

const leaves = Array.from({ length: 90 }, (_, at) => createHash("sha256").update(`leaf ${at}`).digest());

/** A tree and some of its leaves. */
const subsets = fc
  .integer({ min: 1, max: leaves.length })
  .chain((size) =>
    fc
      .uniqueArray(fc.integer({ min: 0, max: size - 1 }), { minLength: 1, maxLength: size })
      .map((some) => ({ size, indexes: some.toSorted((one, other) => one - other) })),
  );

test("a proof of some leaves of a tree holds, and has no more hashes than the proofs of each, which are made of the same nodes", async () => {
  await fc.assert(
    fc.asyncProperty(subsets, async ({ size, indexes }) => {
      const made = await proveMany(leaves, { indexes, size });
      expect(hex(made.root)).toBe(hex((await merkleRoot(leaves.slice(0, size))).root));
      expect(made.leaves.map(hex)).toEqual(indexes.map((index) => hex(leaves[index] ?? emptyRoot)));
      expect(verifyMany(made.proof, { leaves: made.leaves.map(leafHash), root: made.root })).toBe(true);
      const singles = await Promise.all(indexes.map((index) => proveInclusion(leaves, { index, size })));
      const inSingles = singles.flatMap(({ proof }) => proof.hashes.map(hex));
      const inThisOne = made.proof.hashes.map(hex);
      // Each node once, and only such as a single proof needs too.
      expect(new Set(inThisOne).size).toBe(inThisOne.length);
      expect(inThisOne.filter((hash) => !inSingles.includes(hash))).toEqual([]);
      if (indexes.length > 1) expect(inThisOne.length).toBeLessThan(inSingles.length);
      else expect(inThisOne.toSorted()).toEqual(inSingles.toSorted());
    }),
    { numRuns: 60 },
  );
});

test("a proof of all leaves has no hash at all", async () => {
  for (const size of [1, 2, 3, 64, 90]) {
    const indexes = Array.from({ length: size }, (_, at) => at);
    const { proof, ...made } = await proveMany(leaves, { indexes, size });
    expect(proof.hashes).toEqual([]);
    expect(verifyMany(proof, { leaves: made.leaves.map(leafHash), root: made.root })).toBe(true);
  }
});

/** A hash that differs in one bit. */
const flipped = (hash: Uint8Array, bit: number) =>
  hash.map((byte, at) => (at === bit >> 3 ? byte ^ (1 << (bit & 7)) : byte));

/** Lists that differ from one in a member, a bit of it, their number or their order. */
function* spoilt(hashes: readonly Uint8Array[]): Generator<readonly Uint8Array[]> {
  for (const [at, hash] of hashes.entries()) {
    for (const bit of [0, 77, 255]) yield hashes.with(at, flipped(hash, bit));
    yield hashes.toSpliced(at, 1);
    yield hashes.toSpliced(at, 0, hash);
    yield hashes.with(at, hash.subarray(1));
    const next = hashes[at + 1];
    if (next !== undefined) yield hashes.with(at, next).with(at + 1, hash);
  }
  for (const more of [emptyRoot, Buffer.alloc(0)]) {
    yield [...hashes, more];
    yield [more, ...hashes];
  }
}

test("no proof that differs in a bit, a place, a size, a leaf, a node or their order is taken", async () => {
  const isTaken = (proof: MultiProof, about: { leaves: readonly Uint8Array[]; root: Uint8Array }) =>
    verifyMany(proof, about);
  await fc.assert(
    fc.asyncProperty(subsets, async ({ size, indexes }) => {
      const { proof, ...made } = await proveMany(leaves, { indexes, size });
      const about = { leaves: made.leaves.map(leafHash), root: made.root };
      expect(isTaken(proof, about)).toBe(true);
      for (const hashes of spoilt(proof.hashes)) expect(isTaken({ ...proof, hashes }, about)).toBe(false);
      for (const wrong of spoilt(about.leaves)) expect(isTaken(proof, { ...about, leaves: wrong })).toBe(false);
      for (const bit of [0, 128, 255]) {
        expect(isTaken(proof, { ...about, root: flipped(about.root, bit) })).toBe(false);
      }
      for (const [at, index] of indexes.entries()) {
        for (const wrong of [index - 1, index + 1, size, -1, 0.5, Number.NaN, 2 ** 53]) {
          expect(isTaken({ ...proof, indexes: indexes.with(at, wrong) }, about)).toBe(false);
        }
        expect(isTaken({ ...proof, indexes: indexes.toSpliced(at, 1) }, about)).toBe(false);
        // Left out with its leaf, it is still not what the other hashes prove.
        const fewer = { ...about, leaves: about.leaves.toSpliced(at, 1) };
        expect(isTaken({ ...proof, indexes: indexes.toSpliced(at, 1) }, fewer)).toBe(false);
      }
      if (indexes.length > 1) {
        const [places, turned] = [indexes.toReversed(), about.leaves.toReversed()];
        expect(isTaken({ ...proof, indexes: places }, { ...about, leaves: turned })).toBe(false);
      }
      for (const wrong of [indexes.at(-1) ?? 0, 0, -1, Number.NaN, Infinity, 2 ** 53]) {
        expect(isTaken({ ...proof, size: wrong }, about)).toBe(false);
      }
      expect(isTaken({ size, indexes: [], hashes: [made.root] }, { leaves: [], root: made.root })).toBe(false);
    }),
    { numRuns: 40 },
  );
});

test("a proof holds for another size only where that of each leaf does: the ways to them are the same there", async () => {
  await fc.assert(
    fc.asyncProperty(subsets, fc.integer({ min: 1, max: 130 }), async ({ size, indexes }, other) => {
      const { proof, ...made } = await proveMany(leaves, { indexes, size });
      const about = { leaves: made.leaves.map(leafHash), root: made.root };
      if (!verifyMany({ ...proof, size: other }, about)) return;
      for (const [at, index] of indexes.entries()) {
        const { proof: single } = await proveInclusion(leaves, { index, size });
        const leaf = about.leaves[at] ?? emptyRoot;
        expect(verifyInclusion({ ...single, size: other }, { leaf, root: made.root })).toBe(true);
      }
    }),
    { numRuns: 100 },
  );
});

test("leaves that are not there, or not in their order, are not proven", async () => {
  for (const place of [
    { indexes: [], size: 4 },
    { indexes: [4], size: 4 },
    { indexes: [2, 1], size: 4 },
    { indexes: [1, 1], size: 4 },
    { indexes: [0], size: 91 },
  ]) {
    await expect(proveMany(leaves, place)).rejects.toThrow(RangeError);
  }
});

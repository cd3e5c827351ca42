import { createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";

import fc from "fast-check";
import { describe, expect, test } from "vitest";

import {
  emptyRoot,
  leafHash,
  merkleRoot,
  merkleTree,
  nodeHash,
  proveConsistency,
  proveInclusion,
  treeHeight,
  verifyConsistency,
  verifyInclusion,
} from "../../src/proofs/merkle.ts";

const sha256 = (...parts: readonly Uint8Array[]) => createHash("sha256").update(Buffer.concat(parts)).digest();

/** The tree straight from its definition in RFC 6962, section 2.1, for what is small enough to be cut up again and again. */
const definition = {
  root(leaves: readonly Uint8Array[]): Uint8Array {
    const [first] = leaves;
    if (first === undefined) return sha256();
    if (leaves.length === 1) return sha256(Buffer.of(0), first);
    const k = definition.split(leaves.length);
    return sha256(Buffer.of(1), definition.root(leaves.slice(0, k)), definition.root(leaves.slice(k)));
  },
  path(m: number, leaves: readonly Uint8Array[]): Uint8Array[] {
    if (leaves.length === 1) return [];
    const k = definition.split(leaves.length);
    return m < k
      ? [...definition.path(m, leaves.slice(0, k)), definition.root(leaves.slice(k))]
      : [...definition.path(m - k, leaves.slice(k)), definition.root(leaves.slice(0, k))];
  },
  subproof(m: number, leaves: readonly Uint8Array[], isWhole: boolean): Uint8Array[] {
    if (m === leaves.length) return isWhole ? [] : [definition.root(leaves)];
    const k = definition.split(leaves.length);
    return m <= k
      ? [...definition.subproof(m, leaves.slice(0, k), isWhole), definition.root(leaves.slice(k))]
      : [...definition.subproof(m - k, leaves.slice(k), false), definition.root(leaves.slice(0, k))];
  },
  /** The largest power of two that is smaller than n. */
  split: (n: number) => 2 ** ((n - 1).toString(2).length - 1),
};

const hex = (hash: Uint8Array | undefined) => (hash === undefined ? "none" : Buffer.from(hash).toString("hex"));
const hexes = (hashes: readonly Uint8Array[]) => hashes.map(hex);
const some = (count: number, seed = 0) =>
  Array.from({ length: count }, (_, at) => sha256(Buffer.from(`${seed}:${at}`)));

/** Each array with one of its bits turned. */
function* flipped(bytes: Uint8Array): Generator<Uint8Array> {
  for (let bit = 0; bit < bytes.length * 8; bit += 1) {
    yield bytes.map((byte, at) => (at === bit >> 3 ? byte ^ (1 << (bit & 7)) : byte));
  }
}

describe("the vectors of transparency-dev/merkle", () => {
  interface Vectors {
    readonly inclusion: readonly {
      readonly file: string;
      readonly leafIdx: number;
      readonly treeSize: number;
      readonly root: string;
      readonly leafHash: string;
      readonly proof: readonly string[];
      readonly wantErr: boolean;
    }[];
    readonly consistency: readonly {
      readonly file: string;
      readonly size1: number;
      readonly size2: number;
      readonly root1: string;
      readonly root2: string;
      readonly proof: readonly string[];
      readonly wantErr: boolean;
    }[];
  }
  const vectors = JSON.parse(readFileSync(new URL("merkle-vectors.json", import.meta.url), "utf8")) as Vectors; // the file says where it comes from
  const bytes = (text: string) => Buffer.from(text, "base64");

  test.for(vectors.inclusion)("inclusion $file", (vector) => {
    const proof = { index: vector.leafIdx, size: vector.treeSize, hashes: vector.proof.map(bytes) };
    const leaf = bytes(vector.leafHash);
    expect(verifyInclusion(proof, { leaf, root: bytes(vector.root) })).toBe(!vector.wantErr);
  });

  test.for(vectors.consistency)("consistency $file", (vector) => {
    const proof = { firstSize: vector.size1, secondSize: vector.size2, hashes: vector.proof.map(bytes) };
    const roots = { firstRoot: bytes(vector.root1), secondRoot: bytes(vector.root2) };
    expect(verifyConsistency(proof, roots)).toBe(!vector.wantErr);
  });

  // testonly/constants.go and testonly/reference_test.go of the same repository.
  const leaves = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
  ].map((text) => Buffer.from(text, "hex"));
  const roots = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
  ];
  const node = {
    a: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    b: "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    e: "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ab: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    cd: "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    ef: "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
    gh: "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    abcd: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    efgh: "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
  };

  test("roots of 0 to 8 leaves", async () => {
    for (const [size, root] of roots.entries()) {
      expect(hex((await merkleRoot(leaves.slice(0, size))).root)).toBe(root);
    }
  });

  test.for([
    { index: 0, size: 1, want: [] },
    { index: 0, size: 2, want: [node.b] },
    { index: 1, size: 2, want: [node.a] },
    { index: 2, size: 3, want: [node.ab] },
    { index: 1, size: 5, want: [node.a, node.cd, node.e] },
    { index: 0, size: 8, want: [node.b, node.cd, node.efgh] },
    { index: 5, size: 8, want: [node.e, node.gh, node.abcd] },
  ])("the path of leaf $index of $size", async ({ want, ...place }) => {
    const { proof, leaf, root } = await proveInclusion(leaves, place);
    expect(hexes(proof.hashes)).toEqual(want);
    expect([hex(leaf), hex(root)]).toEqual([hex(leaves[place.index]), roots[place.size]]);
  });

  test.for([
    { firstSize: 1, secondSize: 1, want: [] },
    { firstSize: 1, secondSize: 8, want: [node.b, node.cd, node.efgh] },
    { firstSize: 2, secondSize: 5, want: [node.cd, node.e] },
    { firstSize: 6, secondSize: 8, want: [node.ef, node.gh, node.abcd] },
  ])("the proof of $firstSize in $secondSize", async ({ want, ...sizes }) => {
    const { proof, firstRoot, secondRoot } = await proveConsistency(leaves, sizes);
    expect(hexes(proof.hashes)).toEqual(want);
    expect([hex(firstRoot), hex(secondRoot)]).toEqual([roots[sizes.firstSize], roots[sizes.secondSize]]);
  });
});

test("the example of RFC 6962, section 2.1.3, has the nodes that its text names", async () => {
  const d = some(7);
  const [a, b, c, dd, e, f, j] = d.map((leaf) => leafHash(leaf));
  if (!a || !b || !c || !dd || !e || !f || !j) throw new Error("There are seven leaves");
  const [g, h, i] = [nodeHash(a, b), nodeHash(c, dd), nodeHash(e, f)];
  const [k, l] = [nodeHash(g, h), nodeHash(i, j)];
  const root = nodeHash(k, l);
  const path = async (index: number) => hexes((await proveInclusion(d, { index, size: 7 })).proof.hashes);
  expect(await path(0)).toEqual(hexes([b, h, l]));
  expect(await path(3)).toEqual(hexes([c, g, l]));
  expect(await path(4)).toEqual(hexes([f, j, k]));
  expect(await path(6)).toEqual(hexes([i, k]));
  const proof = async (firstSize: number) =>
    hexes((await proveConsistency(d, { firstSize, secondSize: 7 })).proof.hashes);
  expect(await proof(3)).toEqual(hexes([c, dd, g, l]));
  expect(await proof(4)).toEqual(hexes([l]));
  expect(await proof(6)).toEqual(hexes([i, j, k]));
  expect(hex((await merkleRoot(d)).root)).toBe(hex(root));
});

test("every tree of up to 70 leaves has the root and the paths of the definition", async () => {
  const leaves = some(70);
  for (let size = 0; size <= leaves.length; size += 1) {
    const now = leaves.slice(0, size);
    const root = definition.root(now);
    expect(hex((await merkleRoot(now)).root)).toBe(hex(root));
    expect(2 ** treeHeight(size)).toBeGreaterThanOrEqual(size);
    expect(size < 2 || 2 ** treeHeight(size) < size * 2).toBe(true);
    for (let index = 0; index < size; index += 1) {
      const { proof, leaf, root: made } = await proveInclusion(leaves, { index, size });
      expect(hex(made)).toBe(hex(root));
      expect(verifyInclusion(proof, { leaf: leafHash(leaf), root })).toBe(true);
      // The definition takes long, so that a third of the paths are held to it.
      if ((index + size) % 3 === 0) expect(hexes(proof.hashes)).toEqual(hexes(definition.path(index, now)));
    }
  }
});

test("every tree of up to 70 leaves is consistent with each that it starts with, by the proof of the definition", async () => {
  const leaves = some(70);
  const roots = leaves.map((_, at) => definition.root(leaves.slice(0, at + 1)));
  for (let secondSize = 1; secondSize <= leaves.length; secondSize += 1) {
    for (let firstSize = 1; firstSize <= secondSize; firstSize += 1) {
      const { proof, ...made } = await proveConsistency(leaves, { firstSize, secondSize });
      const [firstRoot, secondRoot] = [roots[firstSize - 1], roots[secondSize - 1]];
      if (firstRoot === undefined || secondRoot === undefined) throw new Error("Every size has a root");
      expect(hexes([made.firstRoot, made.secondRoot])).toEqual(hexes([firstRoot, secondRoot]));
      expect(verifyConsistency(proof, { firstRoot, secondRoot })).toBe(true);
      if ((firstSize + secondSize) % 3 === 0) {
        const now = leaves.slice(0, secondSize);
        expect(hexes(proof.hashes)).toEqual(hexes(definition.subproof(firstSize, now, true)));
      }
    }
  }
});

/** Proofs that are nearly the given one. */
function* spoilt(hashes: readonly Uint8Array[]): Generator<readonly Uint8Array[]> {
  for (const [at, hash] of hashes.entries()) {
    for (const wrong of flipped(hash)) yield hashes.with(at, wrong);
    yield hashes.toSpliced(at, 1);
    yield hashes.toSpliced(at, 0, hash);
    yield hashes.with(at, hash.subarray(1));
    yield hashes.with(at, Buffer.concat([hash, Buffer.of(0)]));
  }
  for (const more of [emptyRoot, Buffer.alloc(32), Buffer.alloc(0)]) {
    yield [...hashes, more];
    yield [more, ...hashes];
  }
  const reversed = hashes.toReversed();
  if (hexes(reversed).join() !== hexes(hashes).join()) yield reversed;
}

test("no proof of inclusion that differs in a bit, a place, a size or a node is taken", async () => {
  const leaves = some(70, 1);
  for (const size of [1, 2, 3, 4, 5, 6, 7, 8, 9, 33, 64, 70]) {
    for (const index of new Set([0, 1, size >> 1, size - 2, size - 1].filter((at) => at >= 0 && at < size))) {
      const { proof, leaf: data, root } = await proveInclusion(leaves, { index, size });
      const about = { leaf: leafHash(data), root };
      expect(verifyInclusion(proof, about)).toBe(true);
      for (const hashes of spoilt(proof.hashes)) expect(verifyInclusion({ ...proof, hashes }, about)).toBe(false);
      for (const leaf of flipped(about.leaf)) expect(verifyInclusion(proof, { ...about, leaf })).toBe(false);
      for (const wrong of flipped(root)) expect(verifyInclusion(proof, { ...about, root: wrong })).toBe(false);
      for (let other = 0; other < size; other += 1) {
        expect(verifyInclusion({ ...proof, index: other }, about)).toBe(other === index);
      }
      for (const wrong of [-1, 0.5, Number.NaN, size, 2 ** 53]) {
        expect(verifyInclusion({ ...proof, index: wrong }, about)).toBe(false);
      }
      for (const wrong of [-1, 0, index, Number.NaN, Infinity, 2 ** 53]) {
        expect(verifyInclusion({ ...proof, size: wrong }, about)).toBe(false);
      }
    }
  }
});

test("no proof of consistency that differs in a bit, a size or a node is taken", async () => {
  const leaves = some(70, 2);
  for (const secondSize of [1, 2, 3, 4, 7, 8, 9, 33, 64, 70]) {
    for (const firstSize of new Set([1, 2, secondSize >> 1, secondSize - 1, secondSize].filter((at) => at >= 1))) {
      if (firstSize > secondSize) continue;
      const { proof, ...roots } = await proveConsistency(leaves, { firstSize, secondSize });
      expect(verifyConsistency(proof, roots)).toBe(true);
      for (const hashes of spoilt(proof.hashes)) expect(verifyConsistency({ ...proof, hashes }, roots)).toBe(false);
      for (const firstRoot of flipped(roots.firstRoot)) {
        expect(verifyConsistency(proof, { ...roots, firstRoot })).toBe(false);
      }
      for (const secondRoot of flipped(roots.secondRoot)) {
        expect(verifyConsistency(proof, { ...roots, secondRoot })).toBe(false);
      }
      for (const wrong of [-1, 0, secondSize + 1, Number.NaN]) {
        expect(verifyConsistency({ ...proof, firstSize: wrong }, roots)).toBe(false);
      }
      for (const wrong of [-1, 0, firstSize - 1, Number.NaN, 2 ** 53]) {
        expect(verifyConsistency({ ...proof, secondSize: wrong }, roots)).toBe(false);
      }
    }
  }
});

test("a changed leaf changes the root, and old proofs no longer lead to it", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ maxLength: 40 }), { minLength: 1, maxLength: 300 }),
      fc.nat(),
      fc.nat(),
      async (leaves, one, other) => {
        const [index, changed, size] = [one % leaves.length, other % leaves.length, leaves.length];
        const { proof, leaf, root } = await proveInclusion(leaves, { index, size });
        expect(hex(root)).toBe(hex(definition.root(leaves)));
        expect(hexes(proof.hashes)).toEqual(hexes(definition.path(index, leaves)));
        expect(verifyInclusion(proof, { leaf: leafHash(leaf), root })).toBe(true);
        const firstSize = changed + 1;
        const { proof: growth, ...roots } = await proveConsistency(leaves, { firstSize, secondSize: size });
        expect(hexes(growth.hashes)).toEqual(hexes(definition.subproof(firstSize, leaves, true)));
        expect(verifyConsistency(growth, roots)).toBe(true);
        const altered = leaves.with(changed, Buffer.concat([leaves[changed] ?? Buffer.of(), Buffer.of(1)]));
        const { root: otherRoot } = await merkleRoot(altered);
        expect(hex(otherRoot)).not.toBe(hex(root));
        expect(verifyInclusion(proof, { leaf: leafHash(leaf), root: otherRoot })).toBe(false);
        // The tree that was before the change is not the start of the one after it.
        const after = await proveConsistency(altered, { firstSize, secondSize: size });
        const mixed = { firstRoot: roots.firstRoot, secondRoot: after.secondRoot };
        for (const hashes of [growth.hashes, after.proof.hashes]) {
          expect(verifyConsistency({ ...growth, hashes }, mixed)).toBe(false);
        }
      },
    ),
    { numRuns: 300 },
  );
});

test("no leaf is doubled, and no node passes for a leaf", async () => {
  const [a, b, c] = some(3, 3);
  if (!a || !b || !c) throw new Error("There are three leaves");
  const root = async (...leaves: Uint8Array[]) => hex((await merkleRoot(leaves)).root);
  expect(await root(a, b, c)).not.toBe(await root(a, b, c, c));
  const inner = Buffer.concat([leafHash(a), leafHash(b)]);
  expect(await root(inner, c)).not.toBe(await root(a, b, c));
});

test("proofs take no more leaves than they need, end what they take them from, and say where there are too few", async () => {
  let [taken, ended] = [0, false];
  async function* endless() {
    try {
      for (;;) {
        taken += 1;
        yield randomBytes(32);
      }
    } finally {
      ended = true;
    }
  }
  await proveInclusion(endless(), { index: 3, size: 10 });
  expect([taken, ended]).toEqual([10, true]);
  [taken, ended] = [0, false];
  await proveConsistency(endless(), { firstSize: 4, secondSize: 9 });
  expect([taken, ended]).toEqual([9, true]);
  const few = some(4);
  await expect(proveInclusion(few, { index: 3, size: 5 })).rejects.toThrow(RangeError);
  await expect(proveInclusion(few, { index: 4, size: 4 })).rejects.toThrow(RangeError);
  await expect(proveInclusion([], { index: 0, size: 0 })).rejects.toThrow(RangeError);
  await expect(proveConsistency(few, { firstSize: 2, secondSize: 5 })).rejects.toThrow(RangeError);
  await expect(proveConsistency(few, { firstSize: 0, secondSize: 4 })).rejects.toThrow(RangeError);
  await expect(proveConsistency(few, { firstSize: 4, secondSize: 3 })).rejects.toThrow(RangeError);
});

test("a tree tells each of its nodes once", () => {
  const nodes: string[] = [];
  const tree = merkleTree(({ begin, end }) => nodes.push(`${begin}-${end}`));
  for (const leaf of some(6)) tree.append(leaf);
  tree.root();
  expect(nodes).toEqual(["0-1", "1-2", "0-2", "2-3", "3-4", "2-4", "0-4", "4-5", "5-6", "4-6", "0-6"]);
});

import { createHash } from "node:crypto";

import fc from "fast-check";
import { expect, test } from "vitest";

import { leafHash, merkleTree, pathSpans, proofSpans, type Span } from "../../src/proofs/merkle.ts";
import {
  type Cell,
  cellsOf,
  fanOut,
  growingCells,
  type HashedCell,
  spanHash,
} from "../../src/repository/merkle-cells.ts";

/** More than one cell of the second level. */
const count = 2 * fanOut ** 2 + 3 * fanOut + 5;
const data = Array.from({ length: count }, (_, at) => createHash("sha256").update(`leaf ${at}`).digest());
const leaves = data.map((each, index): HashedCell => ({ level: 0, index, hash: leafHash(each) }));

const keyOf = ({ level, index }: Cell) => `${level}/${index}`;
const hex = (hash: Uint8Array | undefined) => Buffer.from(hash ?? []).toString("hex");

/** All cells that there are, made by adding one leaf after the other. */
const made = (() => {
  const growth = growingCells();
  return [...leaves, ...leaves.flatMap((leaf) => growth.add(leaf))];
})();
const stored = new Map(made.map((cell) => [keyOf(cell), cell.hash]));

/** What a tree makes that knows nothing of cells: its nodes by what lies below them. */
const nodesOf = (size: number) => {
  const nodes = new Map<string, string>();
  const tree = merkleTree(({ begin, end }, hash) => nodes.set(`${begin}-${end}`, hex(hash)));
  for (const each of data.slice(0, size)) tree.append(each);
  return { root: hex(tree.root()), nodes };
};

/** Only of what is complete at a size, as the store has it. */
const fromCells = (span: Span, size: number) => {
  const asked: Cell[] = [];
  const hash = spanHash(span, (cell) => {
    expect((cell.index + 1) * fanOut ** cell.level).toBeLessThanOrEqual(size);
    asked.push(cell);
    return stored.get(keyOf(cell)) ?? Buffer.alloc(0);
  });
  expect(asked).toEqual(cellsOf(span));
  return hex(hash);
};

test("every cell is made once, when its last leaf is added", () => {
  expect(made).toHaveLength(count + Math.floor(count / fanOut) + Math.floor(count / fanOut ** 2));
  expect(stored.size).toBe(made.length);
});

test("the nodes of all proofs are those of the whole tree, whatever its size, and made of few cells", () => {
  const sizes = fc.integer({ min: 1, max: count }).chain((size) =>
    fc.record({
      size: fc.constant(size),
      index: fc.integer({ min: 0, max: size - 1 }),
      first: fc.integer({ min: 1, max: size }),
    }),
  );
  fc.assert(
    fc.property(sizes, ({ size, index, first }) => {
      const { root, nodes } = nodesOf(size);
      expect(fromCells({ begin: 0, end: size }, size)).toBe(root);
      const spans = [...pathSpans(index, size), ...(first < size ? proofSpans(first, size) : [])];
      for (const span of spans) expect(fromCells(span, size)).toBe(nodes.get(`${span.begin}-${span.end}`));
      const levels = Math.ceil(Math.log(size) / Math.log(fanOut)) + 1;
      expect(pathSpans(index, size).flatMap(cellsOf).length).toBeLessThan(2 * fanOut * levels);
    }),
    {
      numRuns: 25,
      examples: [fanOut, fanOut + 1, fanOut ** 2, fanOut ** 2 + 1].map((size) => [{ size, index: 0, first: 1 }]),
    },
  );
});

test("who goes on from the cells at the right edge makes the same ones", () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: count }), (begin) => {
      const growth = growingCells();
      for (const cell of cellsOf({ begin: 0, end: begin })) {
        expect(growth.add({ ...cell, hash: stored.get(keyOf(cell)) ?? Buffer.alloc(0) })).toEqual([]);
      }
      const more = leaves.slice(begin).flatMap((leaf) => growth.add(leaf));
      const expected = made.filter(({ level, index }) => level > 0 && (index + 1) * fanOut ** level > begin);
      expect(more.map((cell) => [keyOf(cell), hex(cell.hash)])).toEqual(
        expected.map((cell) => [keyOf(cell), hex(cell.hash)]),
      );
    }),
    { numRuns: 40, examples: [[0], [fanOut], [fanOut ** 2], [count]] },
  );
});

test("who begins in the middle and knows nothing of what is before makes only what lies above its own leaves", () => {
  const growth = growingCells();
  const begin = fanOut + 3;
  const more = leaves.slice(begin).flatMap((leaf) => growth.add(leaf));
  const whole = made.filter(({ level, index }) => level > 0 && index * fanOut ** level >= begin);
  expect(more.map((cell) => [keyOf(cell), hex(cell.hash)])).toEqual(whole.map((cell) => [keyOf(cell), hex(cell.hash)]));
});

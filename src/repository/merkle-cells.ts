import { emptyRoot, leftSize, nodeHash, type Span } from "../proofs/merkle.ts";

/*
 * Which nodes of a tree are kept, so that no proof reads all leaves. A cell is a node above 1, 64, 64², … leaves, side by side from
 * the first leaf on. Leaves are only added at the end, so a cell never changes once its leaves are there, and is the same in
 * the tree of every size: whoever makes it makes the same. Every other node is made of at most 63 cells of each level.
 */

/** Cells that one cell of the next level is made of. */
export const fanOut = 64;

/** A node above 64^level leaves; level 0 are the leaves themselves. */
export interface Cell {
  readonly level: number;
  /** Place among the cells of its level, from 0. */
  readonly index: number;
}

/** The cells that a node of a tree is made of, from the left. */
export function cellsOf({ begin, end }: Span): Cell[] {
  const cells: Cell[] = [];
  for (let at = begin; at < end;) {
    const [level, leaves] = largestWithin(end - at);
    cells.push({ level, index: at / leaves });
    at += leaves;
  }
  return cells;
}

/** The hash of a node of a tree; `hashOf` is asked for its cells, from the left. */
export function spanHash({ begin, end }: Span, hashOf: (cell: Cell) => Uint8Array): Uint8Array {
  const size = end - begin;
  if (size === 0) return emptyRoot;
  const [level, leaves] = largestWithin(size);
  // What lies below a node of a tree begins at a multiple of the least power of two that holds it.
  if (leaves === size) return hashOf({ level, index: begin / leaves });
  const middle = begin + leftSize(size);
  const left = spanHash({ begin, end: middle }, hashOf);
  return nodeHash(left, spanHash({ begin: middle, end }, hashOf));
}

/** The level of the largest cell that so many leaves hold, and how many it is above. */
function largestWithin(size: number): readonly [level: number, leaves: number] {
  let [level, leaves] = [0, 1];
  for (; leaves * fanOut <= size; leaves *= fanOut) level += 1;
  return [level, leaves];
}

/** A cell with its hash. */
export interface HashedCell extends Cell {
  readonly hash: Uint8Array;
}

/**
 * Makes cells while leaves are added at the end: gives those that each addition completes. Knows of what is to the left only what
 * it is told first, in the order of `cellsOf`; a cell that lies above something else is left out. Holds at most 63 hashes of a level.
 */
export function growingCells(): { add(cell: HashedCell): HashedCell[] } {
  const rows: Uint8Array[][] = [];
  const add = ({ level, index, hash }: HashedCell): HashedCell[] => {
    const place = index % fanOut;
    const row = place === 0 ? [] : (rows[level] ?? []);
    rows[level] = row;
    row.push(hash);
    if (place !== fanOut - 1) return [];
    rows[level] = [];
    if (row.length !== fanOut) return [];
    const above = { level: level + 1, index: Math.floor(index / fanOut), hash: rootOfAll(row) };
    return [above, ...add(above)];
  };
  return { add };
}

/** The root of a tree whose number of leaves is a power of two. */
function rootOfAll(leaves: readonly Uint8Array[]): Uint8Array {
  let row = leaves;
  while (row.length > 1) {
    row = row.flatMap((left, place) => {
      const right = row[place + 1];
      return place % 2 === 0 && right !== undefined ? [nodeHash(left, right)] : [];
    });
  }
  return row[0] ?? emptyRoot;
}

/** The cells above the leaves of one tree. */
export interface CellTable {
  /** What it takes of memory. */
  readonly bytes: number;
  put(cell: HashedCell): void;
  /** The hash of a cell that was put. */
  hashOf(cell: Cell): Uint8Array;
}

/** How many cells of each level, from the first, a tree of so many leaves has. */
function cellCounts(size: number): number[] {
  const counts: number[] = [];
  for (let cells = Math.floor(size / fanOut); cells > 0; cells = Math.floor(cells / fanOut)) counts.push(cells);
  return counts;
}

/** What the cells of a tree of so many leaves take of memory: half a byte for each leaf. */
export function tableBytes(size: number): number {
  return cellCounts(size).reduce((sum, cells) => sum + cells * emptyRoot.length, 0);
}

/** Room for the cells of a tree of so many leaves. */
export function cellTable(size: number): CellTable {
  const levels = cellCounts(size).map((cells) => Buffer.alloc(cells * emptyRoot.length));
  const slot = ({ level, index }: Cell): Buffer => {
    const place = levels[level - 1]?.subarray(index * emptyRoot.length, (index + 1) * emptyRoot.length);
    if (place?.length !== emptyRoot.length) throw new RangeError(`The tree has no cell ${index} of level ${level}`);
    return place;
  };
  return {
    bytes: tableBytes(size),
    put: (cell) => slot(cell).set(cell.hash),
    hashOf: slot,
  };
}

import {
  emptyRoot,
  hex,
  type InclusionProof,
  leafHash,
  pathSpans,
  type Span,
  verifyInclusion,
} from "../proofs/merkle.ts";
import { type MultiProof, multiSpans, verifyMany } from "../proofs/multi-proof.ts";
import { type Cell, type CellTable, cellsOf, cellTable, growingCells, spanHash, tableBytes } from "./merkle-cells.ts";

/** What proves a leaf that holds `leaf`. */
export interface ProvenLeaf {
  readonly proof: InclusionProof;
  readonly leaf: Uint8Array;
}

/** What proves several leaves, with what each holds. */
export interface ProvenLeaves {
  readonly proof: MultiProof;
  readonly leaves: readonly Uint8Array[];
}

/** A tree by its root and size. */
export interface Tree {
  readonly root: Uint8Array;
  readonly size: number;
}

/** Reads those leaves that there are of some, few enough for one window. */
export type LeavesAt = (indexes: readonly number[]) => Promise<ReadonlyMap<number, Uint8Array>>;

/**
 * Cells of trees that proofs were made of not long ago, so that the next proof of the same tree reads fewer than 128 leaves. What is
 * kept is believed by nobody: a proof that does not lead to the root is none, and its tree is forgotten.
 */
export interface KeptTrees {
  /** Begins a tree of so many leaves, which are then added in their order, and kept with the root that they come to. */
  grow(size: number): { add(leaf: Uint8Array): void; keep(root: Uint8Array): void };
  /** Proves a leaf of a tree that is kept; undefined where it is not, or where the leaves are no longer those of the tree. */
  prove(place: Tree & { readonly index: number }, leavesAt: LeavesAt): Promise<ProvenLeaf | undefined>;
  /** Proves several leaves so; undefined also where it would take most of the leaves. */
  proveMany(
    place: Tree & { readonly indexes: readonly number[] },
    leavesAt: LeavesAt,
  ): Promise<ProvenLeaves | undefined>;
}

/** Keeps trees, those that were used last, within so many bytes; none that alone is larger. */
export function keptTrees(mostBytes: number): KeptTrees {
  /** The one that was used last is the last. */
  const trees = new Map<string, CellTable>();
  let bytes = 0;

  const forget = (key: string) => {
    bytes -= trees.get(key)?.bytes ?? 0;
    trees.delete(key);
  };
  const keep = (key: string, cells: CellTable) => {
    forget(key);
    trees.set(key, cells);
    bytes += cells.bytes;
    for (const oldest of trees.keys()) {
      if (bytes <= mostBytes) return;
      forget(oldest);
    }
  };

  const provenBy = async ({ root, size }: Tree, parts: Parts, leavesAt: LeavesAt) => {
    const cells = trees.get(keyOf(root, size));
    if (cells === undefined) return undefined;
    const made = await assembled(cells, parts, leavesAt);
    if (made === undefined) forget(keyOf(root, size));
    return made;
  };
  /** A proof that holds, and its tree is the one that was used last; or none, and no tree any more. */
  const judged = <P>({ root, size }: Tree, holds: boolean, proven: P): P | undefined => {
    const key = keyOf(root, size);
    const cells = trees.get(key);
    if (!holds) forget(key);
    else if (cells !== undefined) keep(key, cells);
    return holds ? proven : undefined;
  };

  return {
    grow(size) {
      // One that is too large would drive out all others, and go itself.
      if (tableBytes(size) > mostBytes) return { add: () => {}, keep: () => {} };
      const cells = cellTable(size);
      const growth = growingCells();
      let index = 0;
      return {
        add(leaf) {
          for (const cell of growth.add({ level: 0, index, hash: leafHash(leaf) })) cells.put(cell);
          index += 1;
        },
        keep: (root) => keep(keyOf(root, size), cells),
      };
    },

    async prove({ root, size, index }, leavesAt) {
      const made = await provenBy({ root, size }, { indexes: [index], spans: pathSpans(index, size) }, leavesAt);
      const [leaf] = made?.leaves ?? [];
      if (made === undefined || leaf === undefined) return undefined;
      const proof = { index, size, hashes: made.hashes };
      return judged({ root, size }, verifyInclusion(proof, { leaf: leafHash(leaf), root }), { proof, leaf });
    },

    async proveMany({ root, size, indexes }, leavesAt) {
      const spans = multiSpans(indexes, size);
      if (leavesOf(spans).length > size / 2) return undefined;
      const made = await provenBy({ root, size }, { indexes, spans }, leavesAt);
      if (made === undefined) return undefined;
      const { hashes, leaves } = made;
      const proof = { indexes, size, hashes };
      return judged({ root, size }, verifyMany(proof, { leaves: leaves.map(leafHash), root }), { proof, leaves });
    },
  };
}

/** How many leaves are read at once, give or take the 126 that one node may take. */
const leavesAtOnce = 4000;

/** What a proof is made of: the leaves that it proves, and the nodes above spans. */
interface Parts {
  readonly indexes: readonly number[];
  readonly spans: readonly Span[];
}

/** Makes the nodes from cells, and from leaves where there are no cells; undefined where the store lacks one of those. */
async function assembled(cells: CellTable, { indexes, spans }: Parts, leavesAt: LeavesAt) {
  const leaves: Uint8Array[] = [];
  const hashes: Uint8Array[] = [];
  for (const part of partsOf({ indexes, spans })) {
    const needed = [...part.indexes, ...leavesOf(part.spans)];
    const found = needed.length === 0 ? new Map<number, Uint8Array>() : await leavesAt(needed);
    if (!needed.every((index) => found.has(index))) return undefined;
    const leaf = (index: number) => found.get(index) ?? emptyRoot; // every one was found
    leaves.push(...part.indexes.map(leaf));
    const hashOf = (cell: Cell) => (cell.level === 0 ? leafHash(leaf(cell.index)) : cells.hashOf(cell));
    hashes.push(...part.spans.map((span) => spanHash(span, hashOf)));
  }
  return { leaves, hashes };
}

function* partsOf({ indexes, spans }: Parts): Generator<Parts> {
  let [count, part] = [indexes.length, { indexes, spans: [] as Span[] }];
  for (const span of spans) {
    part.spans.push(span);
    count += leavesOf([span]).length;
    if (count < leavesAtOnce) continue;
    yield part;
    [count, part] = [0, { indexes: [], spans: [] }];
  }
  yield part;
}

/** The leaves that no cell is above, of what lies below some nodes. */
function leavesOf(spans: readonly Span[]): number[] {
  return spans.flatMap(cellsOf).flatMap(({ level, index }) => (level === 0 ? [index] : []));
}

function keyOf(root: Uint8Array, size: number): string {
  return `${hex(root)}/${size}`;
}

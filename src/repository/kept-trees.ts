import { hex, type InclusionProof, leafHash, pathSpans, verifyInclusion } from "../proofs/merkle.ts";
import { type CellTable, cellsOf, cellTable, growingCells, spanHash } from "./merkle-cells.ts";

/** What proves a leaf that holds `leaf`. */
export interface ProvenLeaf {
  readonly proof: InclusionProof;
  readonly leaf: Uint8Array;
}

/** The tree with a root, and where the leaf to prove is in it. */
export interface Place {
  readonly root: Uint8Array;
  readonly size: number;
  readonly index: number;
}

/**
 * Cells of trees that proofs were made of not long ago, so that the next proof of the same tree reads fewer than 128 leaves. What is
 * kept is believed by nobody: a proof that does not lead to the root is none, and its tree is forgotten.
 */
export interface KeptTrees {
  /** Begins a tree of so many leaves, which are then added in their order, and kept with the root that they come to. */
  grow(size: number): { add(leaf: Uint8Array): void; keep(root: Uint8Array): void };
  /** Proves a leaf of a tree that is kept; undefined where it is not, or where the leaves are no longer those of the tree. */
  prove(
    place: Place,
    leavesAt: (indexes: readonly number[]) => Promise<ReadonlyMap<number, Uint8Array>>,
  ): Promise<ProvenLeaf | undefined>;
}

/** Keeps trees, those that were used last, within so many bytes. */
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

  return {
    grow(size) {
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
      const key = keyOf(root, size);
      const cells = trees.get(key);
      if (cells === undefined) return undefined;
      const spans = pathSpans(index, size);
      const beside = spans.flatMap(cellsOf).filter(({ level }) => level === 0);
      const leaves = await leavesAt([index, ...beside.map((cell) => cell.index)]);
      const leaf = leaves.get(index);
      if (leaf !== undefined && beside.every((cell) => leaves.has(cell.index))) {
        const hashes = spans.map((span) =>
          spanHash(span, (cell) => (cell.level === 0 ? leafHash(leaves.get(cell.index) ?? leaf) : cells.hashOf(cell))),
        );
        const proof = { index, size, hashes };
        if (verifyInclusion(proof, { leaf: leafHash(leaf), root })) {
          keep(key, cells);
          return { proof, leaf };
        }
      }
      forget(key);
      return undefined;
    },
  };
}

function keyOf(root: Uint8Array, size: number): string {
  return `${hex(root)}/${size}`;
}

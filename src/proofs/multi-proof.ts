import {
  areHashes,
  isPlace,
  isSame,
  type Leaves,
  leftSize,
  merkleTree,
  nodeHash,
  type Span,
  wantedNodes,
} from "./merkle.ts";

/** What shows at once that several leaves are in a tree. */
export interface MultiProof {
  /** Places of the leaves, from 0, each greater than the one before. */
  readonly indexes: readonly number[];
  /** Number of leaves of the tree. */
  readonly size: number;
  /** The nodes of `multiSpans`, in their order. */
  readonly hashes: readonly Uint8Array[];
}

/** What lies below nodes of a tree that has no proven leaf, from the left: the largest such nodes, and all that a multi-proof has. */
export function multiSpans(indexes: readonly number[], size: number): Span[] {
  const spans: Span[] = [];
  walk(indexes, size, { leaf: () => {}, beside: (span) => void spans.push(span), node: () => {} });
  return spans;
}

/**
 * Proves that the leaves at `indexes` are in the tree of the first `size` leaves, and takes no more of them. Returns also what these
 * leaves hold and the root. Throws a RangeError where there are no such leaves, or their places are not in their order.
 */
export async function proveMany(
  leaves: Leaves,
  { indexes, size }: Omit<MultiProof, "hashes">,
): Promise<{ readonly proof: MultiProof; readonly leaves: readonly Uint8Array[]; readonly root: Uint8Array }> {
  if (!arePlaces(indexes, size)) throw new RangeError(`There are no such leaves among ${size}`);
  const wanted = wantedNodes(multiSpans(indexes, size));
  const proven: Uint8Array[] = [];
  const tree = merkleTree(wanted.seen);
  for await (const data of leaves) {
    if (tree.size === indexes[proven.length]) proven.push(data);
    tree.append(data);
    if (tree.size === size) break;
  }
  const root = tree.root();
  if (tree.size < size) throw new RangeError(`There are only ${tree.size} leaves of ${size}`);
  return { proof: { indexes, size, hashes: wanted.hashes() }, leaves: proven, root };
}

/** Whether leaves with those hashes, in the order of the proof's places, are in the tree with that root. Never throws. */
export function verifyMany(
  { indexes, size, hashes }: MultiProof,
  { leaves, root }: { readonly leaves: readonly Uint8Array[]; readonly root: Uint8Array },
): boolean {
  if (!arePlaces(indexes, size) || leaves.length !== indexes.length) return false;
  if (!areHashes(leaves) || !areHashes(hashes)) return false;
  // Nothing is hashed of a proof that has too few or too many.
  if (multiSpans(indexes, size).length !== hashes.length) return false;
  const [ofLeaves, ofNodes] = [leaves.values(), hashes.values()];
  const next = (of: Iterator<Uint8Array, undefined>) => of.next().value ?? emptyHash;
  const made = walk(indexes, size, {
    leaf: () => next(ofLeaves),
    beside: () => next(ofNodes),
    node: nodeHash,
  });
  return isSame(made, root);
}

/** In the place of a hash that is missing, which the numbers of hashes rule out. */
const emptyHash = Buffer.alloc(0);

/** Goes through a tree from the left, leaving out what is below nodes that have no leaf at `indexes`, and puts together what it finds. */
function walk<T>(
  indexes: readonly number[],
  size: number,
  visit: {
    /** One of `indexes`. */
    readonly leaf: () => T;
    /** A node with none of them below it, where the node above has some. */
    readonly beside: (span: Span) => T;
    /** A node with some of them below it. */
    readonly node: (left: T, right: T) => T;
  },
): T {
  let passed = 0;
  const below = (begin: number, end: number): T => {
    const next = indexes[passed];
    if (next === undefined || next >= end) return visit.beside({ begin, end });
    if (end - begin === 1) {
      passed += 1;
      return visit.leaf();
    }
    const middle = begin + leftSize(end - begin);
    const left = below(begin, middle);
    return visit.node(left, below(middle, end));
  };
  return below(0, size);
}

function arePlaces(indexes: readonly number[], size: number): boolean {
  const isNext = (index: number, at: number) => isPlace(index, size) && index > (indexes[at - 1] ?? -1);
  return indexes.length > 0 && indexes.every(isNext);
}

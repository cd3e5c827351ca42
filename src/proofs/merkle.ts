import { hash } from "node:crypto";

/** The tree of no leaves. */
export const emptyRoot: Uint8Array = hash("sha256", "", "buffer");

/** The hash of a leaf that holds `data`. */
export function leafHash(data: Uint8Array): Uint8Array {
  return hash("sha256", Buffer.concat([leafPrefix, data]), "buffer");
}

/** The hash of a node. Leaves and nodes start differently, so that neither can pass for the other. */
export function nodeHash(left: Uint8Array, right: Uint8Array): Uint8Array {
  return hash("sha256", Buffer.concat([nodePrefix, left, right]), "buffer");
}

const leafPrefix = Buffer.of(0);
const nodePrefix = Buffer.of(1);
const hashBytes = 32;

/** A hash as it is stored and shown. */
export function hex(hashed: Uint8Array): string {
  return Buffer.from(hashed).toString("hex");
}

/** Levels of nodes above the leaves of a tree: 0 for up to one leaf, 1 for two, 2 for three and four. */
export function treeHeight(size: number): number {
  let height = 0;
  for (let span = 1; span < size; span *= 2) height += 1;
  return height;
}

/** The leaves from `begin` up to, without, `end`: what lies below one node of a tree. */
export interface Span {
  readonly begin: number;
  readonly end: number;
}

/** A tree that leaves are added to at its end. Holds one hash for each level. */
export interface MerkleTree {
  /** Number of leaves. */
  readonly size: number;
  /** Adds a leaf that holds `data`. */
  append(data: Uint8Array): void;
  root(): Uint8Array;
}

/**
 * The tree of RFC 6962 with SHA-256, empty. `seen` is told each node that is made, leaves among them; those at the right edge
 * that are not full only by `root`.
 */
export function merkleTree(seen: (span: Span, hash: Uint8Array) => void = () => {}): MerkleTree {
  /** The roots of the full subtrees, the largest first: one for each bit of the size. */
  const full: (Span & { readonly hash: Uint8Array })[] = [];
  let size = 0;

  return {
    get size() {
      return size;
    },

    append(data) {
      let node = { begin: size, end: size + 1, hash: leafHash(data) };
      seen(node, node.hash);
      size = node.end;
      for (let span = 1; (size / span) % 2 === 0; span *= 2) {
        const left = full.pop();
        if (left === undefined) throw new Error("A node has no sibling");
        node = { begin: left.begin, end: size, hash: nodeHash(left.hash, node.hash) };
        seen(node, node.hash);
      }
      full.push(node);
    },

    root() {
      const [last, ...larger] = full.toReversed();
      if (last === undefined) return emptyRoot;
      let root = last.hash;
      for (const { begin, hash: left } of larger) {
        root = nodeHash(left, root);
        seen({ begin, end: size }, root);
      }
      return root;
    },
  };
}

/** Leaves in their order, each what it holds. */
export type Leaves = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/** The root and the size of the tree of all leaves. Holds one hash for each level, however many there are. */
export async function merkleRoot(leaves: Leaves): Promise<{ readonly root: Uint8Array; readonly size: number }> {
  const tree = merkleTree();
  for await (const leaf of leaves) tree.append(leaf);
  return { root: tree.root(), size: tree.size };
}

/** What shows that a leaf is in a tree. */
export interface InclusionProof {
  /** Place of the leaf, from 0. */
  readonly index: number;
  /** Number of leaves of the tree. */
  readonly size: number;
  /** PATH of RFC 6962, section 2.1.1. */
  readonly hashes: readonly Uint8Array[];
}

/** What shows that a tree starts with the leaves of an earlier one. */
export interface ConsistencyProof {
  /** Number of leaves of the earlier tree. */
  readonly firstSize: number;
  /** Number of leaves of the later one. */
  readonly secondSize: number;
  /** PROOF of RFC 6962, section 2.1.2. */
  readonly hashes: readonly Uint8Array[];
}

/**
 * Proves that the leaf at `index` is in the tree of the first `size` leaves, and takes no more of them. Returns also what the
 * leaf holds and the root. Throws a RangeError where there is no such leaf.
 */
export async function proveInclusion(
  leaves: Leaves,
  { index, size }: Omit<InclusionProof, "hashes">,
): Promise<{ readonly proof: InclusionProof; readonly leaf: Uint8Array; readonly root: Uint8Array }> {
  if (!isPlace(index, size)) throw new RangeError(`There is no leaf ${index} among ${size}`);
  let leaf: Uint8Array | undefined;
  const wanted = wantedNodes(pathSpans(index, size));
  const tree = merkleTree(wanted.seen);
  for await (const data of leaves) {
    if (tree.size === index) leaf = data;
    tree.append(data);
    if (tree.size === size) break;
  }
  const root = tree.root();
  if (leaf === undefined || tree.size < size) throw new RangeError(`There are only ${tree.size} leaves of ${size}`);
  return { proof: { index, size, hashes: wanted.hashes() }, leaf, root };
}

/**
 * Proves that the tree of the first `secondSize` leaves starts with the tree of the first `firstSize`, and takes no more of
 * them. Returns also both roots. Throws a RangeError where there are no such trees.
 */
export async function proveConsistency(
  leaves: Leaves,
  { firstSize, secondSize }: Omit<ConsistencyProof, "hashes">,
): Promise<{ readonly proof: ConsistencyProof; readonly firstRoot: Uint8Array; readonly secondRoot: Uint8Array }> {
  if (!isPlace(firstSize - 1, secondSize))
    throw new RangeError(`No tree of ${secondSize} starts with one of ${firstSize}`);
  let firstRoot: Uint8Array | undefined;
  const wanted = wantedNodes(firstSize === secondSize ? [] : proofSpans(firstSize, secondSize));
  const tree = merkleTree(wanted.seen);
  for await (const data of leaves) {
    tree.append(data);
    if (tree.size === firstSize) firstRoot = tree.root();
    if (tree.size === secondSize) break;
  }
  const secondRoot = tree.root();
  if (firstRoot === undefined || tree.size < secondSize) {
    throw new RangeError(`There are only ${tree.size} leaves of ${secondSize}`);
  }
  return { proof: { firstSize, secondSize, hashes: wanted.hashes() }, firstRoot, secondRoot };
}

/** Whether a tree of `size` leaves has one at `index`. */
export function isPlace(index: number, size: number): boolean {
  return Number.isSafeInteger(index) && Number.isSafeInteger(size) && index >= 0 && index < size;
}

/** Picks the nodes above the given spans out of those that a tree makes. */
export function wantedNodes(spans: readonly Span[]) {
  // No two nodes of one proof start at the same leaf.
  const ends = new Map(spans.map(({ begin, end }) => [begin, end]));
  const found = new Map<number, Uint8Array>();
  return {
    seen: ({ begin, end }: Span, node: Uint8Array) => {
      if (ends.get(begin) === end) found.set(begin, node);
    },
    hashes: () =>
      spans.map(({ begin, end }) => {
        const node = found.get(begin);
        if (node === undefined) throw new Error(`The tree has made no node of ${begin} to ${end}`);
        return node;
      }),
  };
}

/** PATH(index, D[size]) of RFC 6962: what lies beside the way from a leaf to the root, from below. */
export function pathSpans(index: number, size: number): Span[] {
  const spans: Span[] = [];
  let [begin, end] = [0, size];
  while (end - begin > 1) {
    const middle = begin + leftSize(end - begin);
    if (index < middle) {
      spans.push({ begin: middle, end });
      end = middle;
    } else {
      spans.push({ begin, end: middle });
      begin = middle;
    }
  }
  return spans.toReversed();
}

/** PROOF(first, D[second]) of RFC 6962 for a first tree that is the smaller one. */
export function proofSpans(first: number, second: number): Span[] {
  const spans: Span[] = [];
  let [begin, end] = [0, second];
  while (end > first) {
    const middle = begin + leftSize(end - begin);
    if (first <= middle) {
      spans.push({ begin: middle, end });
      end = middle;
    } else {
      spans.push({ begin, end: middle });
      begin = middle;
    }
  }
  // Where the first tree is itself a subtree of the second, who checks the proof has it.
  if (begin > 0) spans.push({ begin, end });
  return spans.toReversed();
}

/** How many leaves the left subtree of `size` leaves has: the largest power of two that is smaller than all. */
export function leftSize(size: number): number {
  let left = 1;
  while (left * 2 < size) left *= 2;
  return left;
}

/** Whether a leaf with that hash is in the tree with that root: RFC 9162, section 2.1.3.2. Never throws. */
export function verifyInclusion(
  { index, size, hashes }: InclusionProof,
  { leaf, root }: { readonly leaf: Uint8Array; readonly root: Uint8Array },
): boolean {
  if (!isPlace(index, size) || !areHashes([leaf, ...hashes])) return false;
  const way = wayUp(index, size - 1);
  let node = leaf;
  for (const beside of hashes) {
    const side = way.next();
    if (side === "none") return false;
    node = side === "left" ? nodeHash(beside, node) : nodeHash(node, beside);
  }
  return way.next() === "none" && isSame(node, root);
}

/** Whether the tree with the second root starts with all leaves of the first: RFC 9162, section 2.1.4.2. Never throws. */
export function verifyConsistency(
  { firstSize, secondSize, hashes }: ConsistencyProof,
  { firstRoot, secondRoot }: { readonly firstRoot: Uint8Array; readonly secondRoot: Uint8Array },
): boolean {
  // Every tree starts with no leaves, so that nothing is said by it.
  if (!isPlace(firstSize - 1, secondSize) || !areHashes(hashes)) return false;
  if (firstSize === secondSize) return hashes.length === 0 && isSame(firstRoot, secondRoot);
  let [place, last] = [firstSize - 1, secondSize - 1];
  while (place % 2 === 1) [place, last] = [half(place), half(last)];
  // All leaves of a first tree whose size is a power of two are below one node, its root, which the proof leaves out.
  const [start, ...rest] = place === 0 ? [firstRoot, ...hashes] : hashes;
  if (start === undefined || !areHashes([start])) return false;
  const way = wayUp(place, last);
  let [first, second] = [start, start];
  for (const beside of rest) {
    const side = way.next();
    if (side === "none") return false;
    if (side === "left") first = nodeHash(beside, first);
    second = side === "left" ? nodeHash(beside, second) : nodeHash(second, beside);
  }
  return way.next() === "none" && isSame(first, firstRoot) && isSame(second, secondRoot);
}

/** On which side each next node beside the way to the root lies, for a node at a place of a level whose last place is given. */
function wayUp(place: number, last: number) {
  let [at, end] = [place, last];
  return {
    next(): "left" | "right" | "none" {
      if (end === 0) return "none";
      // The last node of a level that has nothing to its right goes up as it is until it has something to its left.
      while (at === end && at % 2 === 0) [at, end] = [half(at), half(end)];
      const side = at % 2 === 1 ? "left" : "right";
      [at, end] = [half(at), half(end)];
      return side;
    },
  };
}

/** Bits are shifted by division: the operators for bits take 32 of them only. */
function half(number: number): number {
  return Math.floor(number / 2);
}

/** Whether all are as long as a hash is. */
export function areHashes(nodes: readonly Uint8Array[]): boolean {
  return nodes.every(({ length }) => length === hashBytes);
}

export function isSame(left: Uint8Array, right: Uint8Array): boolean {
  return Buffer.compare(left, right) === 0;
}

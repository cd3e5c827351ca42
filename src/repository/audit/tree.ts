import { type Collection, type Db, MongoBulkWriteError } from "mongodb";

import { fail } from "../../errors.ts";
import {
  type ConsistencyProof,
  hex,
  type InclusionProof,
  leafHash,
  pathSpans,
  proofSpans,
  type Span,
  verifyConsistency,
  verifyInclusion,
} from "../../proofs/merkle.ts";
import { callTime } from "../../schema/call-options.ts";
import { duplicateKey } from "../../schema/create-once.ts";
import { isDuplicate } from "../../schema/create-once.ts";
import { abortable } from "../../stores/waiting.ts";
import { type Cell, cellsOf, fanOut, growingCells, type HashedCell, spanHash } from "../merkle-cells.ts";

/*
 * The Merkle tree over the log needs no lock and no leader. Its cells (see `merkle-cells.ts`) follow from the records, which
 * never change: whoever has appended stores those that are complete, and storing one twice does no harm. How far they are stored
 * stands in `audit_heads`; it may lag behind, never lead, so what a process that died has left out is made by the next one that
 * appends or asks. What lies to the right of the last complete cell is made of records, of which there are fewer than 64.
 */

/** The Merkle tree over the hashes of all records, by RFC 6962. Disposing it waits for what is being stored. */
export interface AuditTree extends AsyncDisposable {
  /** Begins to store what the first records make complete. Never fails: what is left out is made later. */
  follow(size: number): void;
  /** The root of the tree of the first `size` records. Fails with `AUDIT_TREE_DAMAGED`, as the proofs do. */
  root(size: number, signal: AbortSignal): Promise<Uint8Array>;
  /** Proves that a record with that hash is at a place of the tree of the first `size` records. */
  proveInclusion(
    place: Omit<InclusionProof, "hashes"> & { readonly recordHash: string },
    signal: AbortSignal,
  ): Promise<{ readonly proof: InclusionProof; readonly root: Uint8Array }>;
  /** Proves that the later tree starts with the earlier one. */
  proveConsistency(
    sizes: Omit<ConsistencyProof, "hashes">,
    signal: AbortSignal,
  ): Promise<{ readonly proof: ConsistencyProof; readonly firstRoot: Uint8Array; readonly secondRoot: Uint8Array }>;
  /** Those of these cells, made of records, that are stored otherwise, or missing though they were to be stored before. */
  wrong(made: readonly HashedCell[], signal: AbortSignal): Promise<HashedCell[]>;
}

/** The leaf of a record with that hash. */
export function leafOf(recordHash: string): Uint8Array {
  return leafHash(Buffer.from(recordHash, "hex"));
}

interface StoredCell {
  /** Level and index. */
  readonly _id: string;
  readonly hash: string;
}

interface StoredSize {
  readonly _id: string;
  /** Records below the cells that are stored, all in all. */
  readonly size: bigint;
}

const _id = "tree";

/** Records that are read at once to make cells. */
const mostLeaves = 1024;

/** The tree over `records`. Nothing is read or written before it is asked to. */
export function auditTree(system: Db, records: Collection): AuditTree {
  const options = {
    writeConcern: { w: "majority" },
    // A cell of records that a failover takes back would be wrong for ever, and a head of them would tell of what never was.
    readConcern: { level: "majority" },
    readPreference: "primary",
    useBigInt64: true,
  } as const;
  const leaves = system.collection(records.collectionName, options);
  const cells = system.collection<StoredCell>("audit_subtrees", options);
  const sizes = system.collection<StoredSize>("audit_heads", options);
  const closing = new AbortController();
  /** Records up to which cells are stored, as far as this process knows, and up to which they are wanted. */
  let [stored, wanted] = [0, 0];
  let growing: Promise<void> | undefined;

  const storedSize = async (): Promise<number> => Number((await sizes.findOne({ _id }, callTime))?.size ?? 0n);

  /** The leaves that a filter of sequences finds. */
  const findLeaves = async (sequence: object): Promise<Map<string, Uint8Array>> => {
    const found = leaves.find({ sequence }, { projection: { _id: 0, sequence: 1, hash: 1 }, ...callTime });
    const entries = await found
      .map((record): [string, Uint8Array] => [
        keyOf({ level: 0, index: Number(record["sequence"]) - 1 }),
        leafOf(String(record["hash"])),
      ])
      .toArray();
    return new Map(entries);
  };

  const findCells = async (keys: readonly string[]): Promise<Map<string, Uint8Array>> => {
    if (keys.length === 0) return new Map();
    const found = await cells.find({ _id: { $in: [...keys] } }, callTime).toArray();
    return new Map(found.map((cell) => [cell._id, Buffer.from(cell.hash, "hex")]));
  };

  /** What makes nodes of these cells; all of them must be there. */
  const hashesOf = async (wantedCells: readonly Cell[]): Promise<(cell: Cell) => Uint8Array> => {
    const sequences = new Set(wantedCells.filter(({ level }) => level === 0).map(({ index }) => BigInt(index + 1)));
    const keys = new Set(wantedCells.filter(({ level }) => level > 0).map(keyOf));
    const found = await Promise.all([
      sequences.size === 0 ? new Map<string, Uint8Array>() : findLeaves({ $in: [...sequences] }),
      findCells([...keys]),
    ]);
    return (cell) => there(found[cell.level === 0 ? 0 : 1], cell);
  };

  const store = async (made: readonly HashedCell[]): Promise<void> => {
    const documents = made.map((cell) => ({ _id: keyOf(cell), hash: hex(cell.hash) }));
    try {
      await cells.insertMany(documents, { ordered: false, ...callTime });
    } catch (error) {
      // Others store the same.
      if (!(error instanceof MongoBulkWriteError) || error.result.getWriteConcernError() !== undefined) throw error;
      if (!error.result.getWriteErrors().every(isDuplicate)) throw error;
    }
  };

  /** Stores cells up to what is wanted, also where that grows meanwhile. */
  const fill = async (): Promise<void> => {
    let done = await storedSize();
    const growth = growingCells();
    const edge = cellsOf({ begin: 0, end: done });
    const hashOf = await hashesOf(edge);
    for (const cell of edge) growth.add({ ...cell, hash: hashOf(cell) });
    while (done < wanted && !closing.signal.aborted) {
      const end = Math.min(done + mostLeaves, wanted);
      const found = await findLeaves({ $gt: BigInt(done), $lte: BigInt(end) });
      const made: HashedCell[] = [];
      for (; done < end; done++) {
        const leaf = { level: 0, index: done };
        made.push(...growth.add({ ...leaf, hash: there(found, leaf) }));
      }
      await store(made);
      // Two replicas that begin it at once meet in its _id; what one of them says then is made up for with its next cells.
      const raised = sizes.updateOne({ _id }, { $max: { size: BigInt(done) } }, { upsert: true, ...callTime });
      await raised.catch((error: unknown) => {
        if (duplicateKey(error) === undefined) throw error;
      });
      stored = Math.max(stored, done);
    }
    stored = Math.max(stored, done);
  };

  /** Waits until the cells of the first records are stored. */
  const grown = async (size: number): Promise<void> => {
    const full = size - (size % fanOut);
    wanted = Math.max(wanted, full);
    for (;;) {
      if (stored >= full) return;
      closing.signal.throwIfAborted();
      growing ??= fill().finally(() => (growing = undefined));
      try {
        await growing;
      } catch (error) {
        // It may have come as far as this.
        if (stored < full) throw error;
      }
    }
  };

  /** The hashes of these nodes of the tree of the first `size` records, and of its leaf at `index`. */
  const nodesOf = async (spans: readonly Span[], size: number, signal: AbortSignal): Promise<Uint8Array[]> => {
    await abortable(grown(size), signal);
    const hashOf = await abortable(hashesOf(spans.flatMap(cellsOf)), signal);
    return spans.map((span) => spanHash(span, hashOf));
  };

  return {
    follow(size) {
      grown(size).catch(() => {}); // who asks for a head or a proof is told
    },

    async root(size, signal) {
      const [root] = await nodesOf([{ begin: 0, end: size }], size, signal);
      return known(root);
    },

    async proveInclusion({ index, size, recordHash }, signal) {
      const [root, ...hashes] = await nodesOf([{ begin: 0, end: size }, ...pathSpans(index, size)], size, signal);
      const proof = { index, size, hashes };
      // The root is made of cells that were stored when the record was appended, the path of leaves beside it.
      if (!verifyInclusion(proof, { leaf: leafOf(recordHash), root: known(root) })) {
        throw damaged({ first: index + 1, last: index + 1 }, changed);
      }
      return { proof, root: known(root) };
    },

    async proveConsistency({ firstSize, secondSize }, signal) {
      const roots = [firstSize, secondSize].map((end) => ({ begin: 0, end }));
      const between = firstSize === secondSize ? [] : proofSpans(firstSize, secondSize);
      const [firstRoot, secondRoot, ...hashes] = await nodesOf([...roots, ...between], secondSize, signal);
      const proof = { firstSize, secondSize, hashes };
      const both = { firstRoot: known(firstRoot), secondRoot: known(secondRoot) };
      if (!verifyConsistency(proof, both)) {
        throw damaged({ first: firstSize - 1 - ((firstSize - 1) % fanOut) + 1, last: firstSize }, changed);
      }
      return { proof, ...both };
    },

    async wrong(made, signal) {
      const size = await storedSize();
      const due = made.filter(({ level, index }) => (index + 1) * fanOut ** level <= size);
      const found = await abortable(findCells(due.map(keyOf)), signal);
      return due.filter((cell) => Buffer.compare(found.get(keyOf(cell)) ?? Buffer.of(), cell.hash) !== 0);
    },

    async [Symbol.asyncDispose]() {
      closing.abort(new Error("The audit log is being closed"));
      await growing?.catch(() => {});
    },
  };
}

function keyOf({ level, index }: Cell): string {
  return `${level}/${index}`;
}

/** The hash of a cell that must be among those that were found. */
function there(found: ReadonlyMap<string, Uint8Array>, cell: Cell): Uint8Array {
  const hash = found.get(keyOf(cell));
  if (hash === undefined) throw damaged(recordsBelow(cell), "or what is stored of them is missing");
  return hash;
}

/** One hash is made for each span. */
function known(hash: Uint8Array | undefined): Uint8Array {
  if (hash === undefined) throw new Error("A node was not made");
  return hash;
}

const changed = "are not those that the tree was made of";

/** The records that a cell lies above, by their sequences. */
function recordsBelow({ level, index }: Cell): { readonly first: number; readonly last: number } {
  const leaves = fanOut ** level;
  return { first: index * leaves + 1, last: (index + 1) * leaves };
}

function damaged({ first, last }: { readonly first: number; readonly last: number }, what: string) {
  return fail("AUDIT_TREE_DAMAGED", `The audit records ${first} to ${last} ${what}`, {
    metadata: { first_sequence: String(first), last_sequence: String(last) },
  });
}

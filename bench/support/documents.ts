import { BSON, type Db, type Document, Long, ObjectId } from "mongodb";

import { random, type Random } from "../../local/seed/random.ts";

const BATCH = 1000;
const START_MS = Date.UTC(2026, 0, 1);

const words =
  "account address agent alert amount anchor approved archive audit backup balance batch block bridge broadcast cache channel checked client closed commit confirmed contract created customer daily default delayed delivered device digest export failed fallback final gateway granted history import invoice journal ledger limit manual market member merged message mobile network notice operator order origin owner partner payment pending policy primary profile queue receipt record region rejected release remote report request reserve restored review reward rotated route sample secure session settled shared signed source status stored support tenant ticket token transfer trusted updated upload verified wallet weekly".split(
    " ",
  ) as [string, ...string[]]; // it is not empty

/** Makes the fields of one document of a collection, about 1 KB as BSON. */
const makers: Readonly<Record<string, (chance: Random, index: number) => Document>> = {
  sessions: (chance, index) => ({
    session_id: uuid(chance),
    owner_id: uuid(chance),
    title: sentence(chance, 5),
    status: chance.pick(["ACTIVE", "COMPLETED", "COMPLETED", "ANCHORED"]),
    started_at: new Date(START_MS + index * 1000),
    chunk_count: Long.fromNumber(chance.whole(1, 900)),
    merkle_root: chance.hex(64),
    participants: Array.from({ length: 4 }, () => ({ user_id: uuid(chance), role: chance.pick(["OWNER", "GUEST"]) })),
    notes: sentence(chance, 45),
  }),
  transactions: (chance, index) => ({
    transaction_id: chance.hex(64),
    block_height: Long.fromNumber(Math.floor(index / 5)),
    from_address: chance.hex(34),
    to_address: chance.hex(34),
    amount: chance.whole(1, 1_000_000) / 100,
    status: chance.pick(["FINALIZED", "FINALIZED", "IN_MEMPOOL"]),
    submitted_at: new Date(START_MS + index * 700),
    signature: chance.hex(128),
    memo: sentence(chance, 50),
    events: Array.from({ length: 3 }, () => ({ kind: chance.pick(words), value: chance.whole(0, 99_999) })),
  }),
  audit_logs: (chance, index) => ({
    audit_id: uuid(chance),
    timestamp: new Date(START_MS + index * 300),
    actor: { id: uuid(chance), role: "USER", source_address: `192.0.2.${chance.whole(1, 254)}` },
    rpc: `lucid.repository.v1.UserService/${chance.pick(["UpdateUser", "GetUser", "RecordLogin"])}`,
    outcome: chance.pick(["OK", "OK", "OK", "ABORTED"]),
    changed: Array.from({ length: 4 }, () => ({ field: chance.pick(words), to: sentence(chance, 4) })),
    message: sentence(chance, 60),
  }),
  manifests: (chance, index) => ({
    manifest_id: uuid(chance),
    session_id: uuid(chance),
    created_at: new Date(START_MS + index * 2000),
    total_size: Long.fromNumber(chance.whole(1, 1_000_000_000)),
    chunks: Array.from({ length: 8 }, (_, position) => ({ position, hash: chance.hex(64) })),
    remark: sentence(chance, 12),
  }),
};

/** The collections, of the same number of documents each. */
export const collectionNames: readonly string[] = Object.keys(makers);

/** The id of a document: they rise, as those do that drivers make. */
export function idAt(index: number): ObjectId {
  return ObjectId.createFromHexString(
    (START_MS / 1000 + Math.floor(index / 100)).toString(16) + index.toString(16).padStart(16, "0"),
  );
}

/** Adds documents to every collection, the same ones at any time: those from `first` up to `end`. Gives the bytes of these. */
export async function addDocuments(
  db: Db,
  { first, end, suffix = "" }: { first: number; end: number; suffix?: string },
): Promise<number> {
  const added = Object.entries(makers).map(async ([name, make]) => {
    let bytes = 0;
    for (let from = first; from < end; from += BATCH) {
      const batch = Array.from({ length: Math.min(BATCH, end - from) }, (_, offset) => ({
        _id: idAt(from + offset),
        ...make(random("bench", name, from + offset), from + offset),
        revision: Long.ONE,
      }));
      for (const document of batch) bytes += BSON.calculateObjectSize(document);
      await db.collection(name + suffix).insertMany(batch, { ordered: false });
    }
    return bytes;
  });
  return (await Promise.all(added)).reduce((sum, bytes) => sum + bytes, 0);
}

/** Changes a field of the documents at these places of every collection. */
export async function changeDocuments(db: Db, places: readonly number[]): Promise<void> {
  for (const name of collectionNames) {
    await db
      .collection<{ _id: ObjectId }>(name)
      .updateMany({ _id: { $in: places.map(idAt) } }, { $inc: { revision: 1 } });
  }
}

function sentence(chance: Random, count: number): string {
  return Array.from({ length: count }, () => chance.pick(words)).join(" ");
}

function uuid(chance: Random): string {
  const hex = chance.hex(32);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20)}`;
}

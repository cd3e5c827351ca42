import type { Db } from "mongodb";

/** Ids that are stored, by the names of their fields. */
export type StoredIds = ReadonlyMap<string, string>;

/** The ids of the newest document of each collection. */
export async function storedIds(db: Db): Promise<StoredIds> {
  const ids = new Map<string, string>();
  for (const { name } of await db.listCollections({}, { nameOnly: true }).toArray()) {
    const document = await db.collection(name).findOne({}, { sort: { _id: -1 } });
    for (const [key, value] of Object.entries(document ?? {})) {
      if (key.endsWith("_id") && typeof value === "string") ids.set(key, value);
    }
  }
  return ids;
}

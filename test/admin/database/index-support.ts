import type { MessageInitShape } from "@bufbuild/protobuf";

import { type IndexDefinitionSchema, IndexKeyType } from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import type { WatchIndexBuildResponse } from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { type AdminApp, collectionName } from "./support.ts";

/** An index as a request describes it. */
export type Definition = MessageInitShape<typeof IndexDefinitionSchema>;

/** A key of an index. */
export const by = (field: string, type: IndexKeyType = IndexKeyType.ASCENDING) => ({ field, type });

/** A collection of an operator's with some documents. */
export async function newCollection(
  { db }: Pick<AdminApp, "db">,
  documents: readonly object[] = [{ n: 1 }, { n: 2 }],
): Promise<string> {
  const collection = collectionName();
  await db.collection(collection).insertMany([...documents]);
  return collection;
}

/** All events of a build. */
export async function eventsOf(
  { admin }: Pick<AdminApp, "admin">,
  buildId: string,
): Promise<WatchIndexBuildResponse[]> {
  return Array.fromAsync(admin.watchIndexBuild({ buildId }));
}

/** Builds an index; gives the last event. */
export async function build(
  service: AdminApp,
  collection: string,
  definition: Definition,
): Promise<WatchIndexBuildResponse | undefined> {
  const { admin, database } = service;
  const made = await admin.createIndex({ database, collection, definition });
  return (await eventsOf(service, made.build?.buildId ?? "")).at(-1);
}

/** Names of the indexes that a collection has. */
export async function indexesOf({ db }: Pick<AdminApp, "db">, collection: string): Promise<string[]> {
  return (await db.collection(collection).indexes()).map(({ name }) => String(name));
}

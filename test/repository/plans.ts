import { type Db, type Document, MongoClient } from "mongodb";
import { expect } from "vitest";

import { storeAddresses, uniqueName } from "../support/stores.ts";

/** What a handler asked a collection for. */
export interface Asked {
  readonly collection: string;
  readonly filter: Document;
  readonly options: { readonly sort?: Document; readonly limit?: number };
}

/** A database that writes down what is looked for in it. */
export interface WatchedDb extends AsyncDisposable {
  /** What handlers use: each `find` and `findOne` is written down. */
  readonly watched: Db;
  readonly db: Db;
  readonly asked: Asked[];
}

export async function watchedDb(): Promise<WatchedDb> {
  const client = await MongoClient.connect(storeAddresses().mongodbUri);
  const name = uniqueName("plans");
  const [db, watched] = [client.db(name, { useBigInt64: true }), client.db(name, { useBigInt64: true })];
  const asked: Asked[] = [];
  const open = watched.collection.bind(watched);
  watched.collection = ((collectionName: string) => {
    const collection = open(collectionName);
    const find = collection.find.bind(collection) as (filter: Document, options: Document) => unknown;
    const recorded = (filter: Document, options: Document) => {
      asked.push({ collection: collectionName, filter, options });
      return find(filter, options);
    };
    return Object.defineProperty(collection, "find", { value: recorded });
  }) as Db["collection"];
  return {
    watched,
    db,
    asked,
    async [Symbol.asyncDispose]() {
      await db.dropDatabase();
      await client.close();
    },
  };
}

/** MongoDB looks a unique key up by its index and filters what it finds; the planner of the local server does not. */
export async function usesIndexBesideFilter(db: Db): Promise<boolean> {
  const probe = db.collection("probe");
  await probe.createIndex({ key: 1 }, { unique: true });
  await probe.insertMany(Array.from({ length: 100 }, (_, key) => ({ key })));
  const plan = (await probe.find({ key: 1, other: null }).explain("queryPlanner")) as { queryPlanner: Document };
  return !stagesOf(plan.queryPlanner["winningPlan"]).includes("COLLSCAN");
}

/** Holds that the store answers what was asked from an index. */
export async function expectIndexed(db: Db, { collection, filter, options }: Asked): Promise<void> {
  const { sort, limit = 3 } = options;
  const cursor = db.collection(collection).find(filter, { ...(sort && { sort }), limit });
  const plan = (await cursor.explain("queryPlanner")) as { queryPlanner: { winningPlan: unknown } };
  const stages = stagesOf(plan.queryPlanner.winningPlan);
  expect(stages, JSON.stringify([filter, options, plan.queryPlanner])).not.toContain("COLLSCAN");
  expect(stages.length).toBeGreaterThan(0);
}

/** The names of all stages of a plan. */
export function stagesOf(plan: unknown): string[] {
  if (typeof plan !== "object" || plan === null) return [];
  const { stage } = plan as { stage?: unknown };
  return [...(typeof stage === "string" ? [stage] : []), ...Object.values(plan).flatMap(stagesOf)];
}

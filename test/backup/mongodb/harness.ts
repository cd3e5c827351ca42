import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type Db, MongoClient } from "mongodb";

import {
  type ConsistencyPointSchema,
  ConflictPolicy,
  type RestoredUnitSchema,
  RenameSchema,
  SelectionSchema,
} from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import { type Unit, UnitSchema } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import type { RecordSink, RecordSource, Work } from "../../../src/backup/contracts.ts";
import { mongodbSource } from "../../../src/backup/mongodb/source.ts";
import { mongodbTarget } from "../../../src/backup/mongodb/target.ts";
import { storeAddresses, uniqueName } from "../../support/stores.ts";
import { quietWork } from "./memory.ts";

export type Report = MessageInitShape<typeof RestoredUnitSchema>[];

/** A connection with databases of its own, which are removed at the end. */
export interface Rig extends AsyncDisposable {
  readonly client: MongoClient;
  readonly systemDatabase: string;
  database(): Db;
}

export async function rig(uri = storeAddresses().mongodbUri): Promise<Rig> {
  const stack = new AsyncDisposableStack();
  const client = await MongoClient.connect(uri);
  stack.defer(() => client.close());
  const names: string[] = [];
  const database = (): Db => {
    const name = uniqueName();
    names.push(name);
    return client.db(name);
  };
  stack.defer(async () => {
    for (const name of names) await client.db(name).dropDatabase();
  });
  return {
    client,
    systemDatabase: database().databaseName,
    database,
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

export interface Taken {
  readonly units: Unit[];
  readonly cut: MessageInitShape<typeof ConsistencyPointSchema>;
}

/** Takes a backup; `reading` is called when the reading has begun, `read` when it is over and the cut has not been made. */
export async function take(
  { client, systemDatabase }: Pick<Rig, "client" | "systemDatabase">,
  namespaces: readonly string[],
  sink: RecordSink,
  options: {
    readonly work?: Work;
    readonly partDocuments?: number;
    readonly begun?: () => Promise<void>;
    readonly read?: () => Promise<void>;
  } = {},
): Promise<Taken> {
  const { work = quietWork(), partDocuments } = options;
  const source = mongodbSource({ client, systemDatabase, ...(partDocuments !== undefined && { partDocuments }) });
  const selection = create(SelectionSchema, { mongodbNamespaces: [...namespaces] });
  await using run = await source.begin(selection, sink, work);
  await options.begun?.();
  await run.read();
  await options.read?.();
  const cut = await run.cut();
  const units = (await run.finish()).map((unit) => create(UnitSchema, unit));
  return { units, cut };
}

/** Restores units of `from` to `to`. */
export async function restore(
  { client, systemDatabase }: Pick<Rig, "client" | "systemDatabase">,
  units: readonly Unit[],
  source: RecordSource,
  options: {
    readonly renames?: readonly (readonly [from: string, to: string])[];
    readonly policy?: ConflictPolicy;
    readonly work?: Work;
    /** Gets the reports, also where the restore fails. */
    readonly reported?: (report: Report) => void;
  } = {},
): Promise<Report> {
  const { renames = [], policy = ConflictPolicy.FAIL, work = quietWork(), reported } = options;
  const plan = {
    units,
    selection: create(SelectionSchema),
    renames: renames.map(([from, to]) => create(RenameSchema, { store: Store.MONGODB, from, to })),
    conflictPolicy: policy,
  };
  await using run = await mongodbTarget({ client, systemDatabase }).prepare(plan, source, work);
  try {
    await run.restore();
    await run.compare();
  } finally {
    reported?.(run.report());
  }
  return run.report();
}

/** All documents of a collection in bytes, as hex, sorted. */
export async function rawContent(db: Db, collection: string): Promise<string[]> {
  const documents: string[] = [];
  for await (const document of db.collection(collection).find({}, { raw: true })) {
    // With `raw`, documents are their bytes.
    documents.push(Buffer.from(document as unknown as Uint8Array).toString("hex"));
  }
  return documents.toSorted();
}

/** Names of what is in a database, sorted. */
export async function contentNames(db: Db): Promise<string[]> {
  const listed = await db.listCollections({}, { nameOnly: true }).toArray();
  return listed.map(({ name }) => name).toSorted();
}

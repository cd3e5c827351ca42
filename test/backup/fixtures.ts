import type { MessageInitShape } from "@bufbuild/protobuf";
import { BSON, type Db, type Document } from "mongodb";

import { ConflictPolicy, type RestoredUnitSchema } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import type { Unit } from "../../gen/lucid/backup/v1/manifest_pb.ts";
import type { RecordSink, RecordSource, Source, Target } from "../../src/backup/contracts.ts";
import { targetName } from "../../src/backup/selection.ts";
import { fail } from "../../src/errors.ts";

/** A gate in the way of work: says when the work has come to it, and lets it through when it is opened. */
export interface Gate {
  /** Resolves when the work has come to the gate. */
  readonly reached: Promise<void>;
  open(): void;
  /** The work passes here. */
  pass(signal: AbortSignal): Promise<void>;
}

export function gate(): Gate {
  const reached = Promise.withResolvers<void>();
  const opened = Promise.withResolvers<void>();
  return {
    reached: reached.promise,
    open: () => opened.resolve(),
    async pass(signal) {
      reached.resolve();
      const stopped = Promise.withResolvers<never>();
      const stop = (): void => stopped.reject(signal.reason as Error);
      signal.addEventListener("abort", stop, { once: true });
      if (signal.aborted) stop();
      await Promise.race([opened.promise, stopped.promise]);
    },
  };
}

/** A source whose writes from the `first` on come to a gate. */
export function gatedSource(source: Source, way: Gate, { first = 1 } = {}): Source {
  let writes = 0;
  return {
    store: source.store,
    begin(selection, sink, work) {
      const gated: RecordSink = {
        open() {
          const writer = sink.open();
          return {
            async write(records) {
              await writer.write(records);
              writes += 1;
              if (writes >= first) await way.pass(work.signal);
            },
            seal: () => writer.seal(),
            [Symbol.asyncDispose]: () => writer[Symbol.asyncDispose](),
          };
        },
      };
      return source.begin(selection, gated, work);
    },
  };
}

/** A target that comes to a gate when it has written all and compared nothing. */
export function gatedTarget(target: Target, way: Gate): Target {
  return {
    store: target.store,
    async prepare(plan, source, work) {
      const run = await target.prepare(plan, source, work);
      return {
        async restore() {
          await run.restore();
          await way.pass(work.signal);
        },
        compare: () => run.compare(),
        report: () => run.report(),
        [Symbol.asyncDispose]: () => run[Symbol.asyncDispose](),
      };
    },
  };
}

/** Reads the collections of one database, document by document: as much of a source as the engine needs. */
export function plainSource(db: Db): Source {
  return {
    store: Store.MONGODB,
    async begin(_selection, sink, { meter, signal }) {
      const names = (await db.listCollections({}, { nameOnly: true }).toArray()).map(({ name }) => name).toSorted();
      for (const name of names) {
        meter.plan(Store.MONGODB, `${db.databaseName}.${name}`, await db.collection(name).countDocuments());
      }
      const units: Awaited<ReturnType<Awaited<ReturnType<Source["begin"]>>["finish"]>> = [];
      return {
        async read() {
          for (const name of names) {
            const unit = `${db.databaseName}.${name}`;
            await using writer = sink.open();
            for await (const document of db.collection(name).find({}, { raw: true, batchSize: 50, signal })) {
              // `raw` makes the driver hand out bytes.
              const record = document as unknown as Uint8Array;
              await writer.write([record]);
              meter.add(Store.MONGODB, unit, 1, record.byteLength);
            }
            const stream = await writer.seal();
            const { recordCount, recordBytes } = stream;
            const value = { database: db.databaseName, collection: name, kind: "collection" };
            const description = { case: "mongodbCollection", value } as const;
            units.push({ store: Store.MONGODB, name: unit, description, streams: [stream], recordCount, recordBytes });
          }
        },
        cut: () => Promise.resolve({ mongodbConsistent: false }),
        finish: () => Promise.resolve(units),
        async [Symbol.asyncDispose]() {},
      };
    },
  };
}

/** Writes documents into collections, under new names: as much of a target as the engine needs. */
export function plainTarget(client: Db["client"]): Target {
  return {
    store: Store.MONGODB,
    async prepare({ units, renames, conflictPolicy }, source, { meter, signal }) {
      const all = units.map((unit) => ({
        unit,
        target: targetName(unit, renames),
        written: 0,
        equal: 0,
        compared: false,
      }));
      const collectionOf = (target: string) => {
        const dot = target.indexOf(".");
        return client.db(target.slice(0, dot)).collection(target.slice(dot + 1));
      };
      for (const { target } of all) {
        if (conflictPolicy !== ConflictPolicy.FAIL || (await collectionOf(target).findOne()) === null) continue;
        throw fail("RESTORE_CONFLICT", "Something of that name is there", { metadata: { target } });
      }
      const documentsOf = (unit: Unit) => documents(unit, source, signal);
      return {
        async restore() {
          for (const part of all) {
            for await (const document of documentsOf(part.unit)) {
              await collectionOf(part.target).insertOne(document);
              part.written += 1;
              meter.add(Store.MONGODB, part.unit.name, 1, 0);
            }
          }
        },
        async compare() {
          for (const part of all) {
            part.compared = true;
            for await (const document of documentsOf(part.unit)) {
              const found = await collectionOf(part.target).findOne({ _id: document["_id"] });
              if (found !== null && Buffer.compare(BSON.serialize(found), BSON.serialize(document)) === 0)
                part.equal += 1;
              meter.add(Store.MONGODB, part.unit.name, 1, 0);
            }
          }
        },
        report: () =>
          all.map(({ unit, target, written, equal, compared }): MessageInitShape<typeof RestoredUnitSchema> => {
            const [expectedItems, equalItems] = [unit.recordCount, BigInt(equal)];
            const counts = { expectedItems, writtenItems: BigInt(written), equalItems };
            return {
              store: Store.MONGODB,
              source: unit.name,
              target,
              ...counts,
              equal: compared && expectedItems === equalItems,
            };
          }),
        async [Symbol.asyncDispose]() {},
      };
    },
  };
}

async function* documents(unit: Unit, source: RecordSource, signal: AbortSignal): AsyncGenerator<Document> {
  for (const stream of unit.streams) {
    for await (const batch of source.records(stream, signal))
      for (const record of batch) yield BSON.deserialize(record);
  }
}

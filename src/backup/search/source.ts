import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";

import type { ConsistencyPointSchema, Selection } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import { SearchRecordSchema, type Stream, type UnitSchema } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import type { SearchStore } from "../../stores/search.ts";
import { type Hit, PointInTime } from "../../stores/search/point-in-time.ts";
import { namesInPaths, property, requestMs, withPatience } from "../../stores/search/requests.ts";
import { readSlice, sliceCount } from "../../stores/search/slice-reader.ts";
import type { RecordSink, Source, SourceRun, Work } from "../contracts.ts";
import { each } from "../together.ts";
import { describeIndex, failures, type SelectedIndex, selectedNames } from "./selected-indices.ts";
import { readTemplates, templatesUnit } from "./templates.ts";

/** Points in time that are opened at once. */
const openedAtOnce = 16;
/** How often points in time that wait for their turn are looked after, in milliseconds. */
const renewalMs = 30_000;

/**
 * Backs Elasticsearch or OpenSearch up: of each index its settings, mappings and aliases, and its documents as they are at the
 * cut, when points in time of all indices are opened; and templates, where no indices are selected by name. Data streams, legacy
 * templates, ingest pipelines and what plugins keep are not part of it.
 */
export function searchSource(options: {
  readonly search: SearchStore;
  /**
   * Says which indices the service itself keeps equal to collections: they are not backed up, as they are filled from the restored
   * collections anew, and would be in the way of that. None where not set.
   */
  readonly isDerived?: (index: string) => boolean;
}): Source {
  const { search, isDerived = () => false } = options;
  const namesOf = async (selection: Selection, signal: AbortSignal): Promise<string[]> => {
    const names = await withPatience(signal, () => selectedNames(search.client, selection.searchIndices, signal));
    return names.filter((name) => !isDerived(name));
  };
  return {
    store: Store.SEARCH,
    async begin(selection, sink, work) {
      const stop = new AbortController();
      const signal = AbortSignal.any([work.signal, stop.signal]);
      // What cannot be backed up is found before anything is written, though what is there is only fixed by the cut.
      for (const name of await namesOf(selection, signal)) {
        const { documents } = await described(search, name, signal);
        work.meter.plan(Store.SEARCH, name, documents);
      }
      return new SearchRun({ search, selection, namesOf, sink, work, stop, signal });
    },
  };
}

interface RunOptions {
  readonly search: SearchStore;
  readonly selection: Selection;
  readonly namesOf: (selection: Selection, signal: AbortSignal) => Promise<string[]>;
  readonly sink: RecordSink;
  readonly work: Work;
  readonly stop: AbortController;
  readonly signal: AbortSignal;
}

interface OpenIndex {
  readonly index: SelectedIndex;
  readonly pointInTime: PointInTime;
  readonly streams: Stream[];
  records: number;
  bytes: number;
}

class SearchRun implements SourceRun {
  readonly #options: RunOptions;
  readonly #stack = new AsyncDisposableStack();
  #open: readonly OpenIndex[] = [];
  #templates: Awaited<ReturnType<typeof readTemplates>>;

  constructor(options: RunOptions) {
    this.#options = options;
  }

  async read(): Promise<void> {}

  async cut(): Promise<MessageInitShape<typeof ConsistencyPointSchema>> {
    const { search, selection, namesOf, signal, work } = this.#options;
    const names = await namesOf(selection, signal);
    // Before the refresh: what has a number by then is in what is read.
    const searchSequenceNumbers = await this.#sequenceNumbers(names);
    for (const index of namesInPaths(names)) {
      await withPatience(signal, () => search.client.indices.refresh({ index }, this.#limits));
    }
    const points = await this.#openAll(names);
    const open: OpenIndex[] = [];
    for (const pointInTime of points) {
      // Mappings only grow, so that those of now have all fields of the documents of then.
      const index = await described(search, pointInTime.index, signal);
      open.push({ index, pointInTime, streams: [], records: 0, bytes: 0 });
    }
    this.#open = open;
    if (selection.searchIndices.length === 0) {
      this.#templates = await withPatience(signal, () => readTemplates(search.client, signal));
    }
    for (const { index } of this.#open) work.meter.plan(Store.SEARCH, index.name, index.documents);
    return { searchSequenceNumbers };
  }

  async finish(): Promise<MessageInitShape<typeof UnitSchema>[]> {
    const { work, stop, signal, search } = this.#options;
    const renewal = this.#renewAll();
    try {
      await each(this.#slices(), { atOnce: work.parallelism, stop }, ([open, slice]) => this.#copy(open, slice));
    } finally {
      clearInterval(renewal);
    }
    signal.throwIfAborted();
    const product = await search.product(signal);
    const units = this.#open.map((open) => this.#unit(open, product));
    return this.#templates === undefined ? units : [...units, templatesUnit(this.#templates)];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#options.stop.abort(new Error("The backup of the search indices is over"));
    await this.#stack.disposeAsync();
  }

  get #limits() {
    return { signal: this.#options.signal, requestTimeout: requestMs };
  }

  async #sequenceNumbers(names: readonly string[]): Promise<Record<string, bigint>> {
    const { search, signal } = this.#options;
    const numbers: Record<string, bigint> = {};
    for (const index of namesInPaths(names)) {
      const filter = "indices.*.shards.*.seq_no,indices.*.shards.*.routing";
      const { indices = {} } = await withPatience(signal, () =>
        search.client.indices.stats({ index, level: "shards", filter_path: filter }, this.#limits),
      );
      for (const [name, { shards = {} }] of Object.entries(indices)) {
        const primaries = Object.values(shards).flatMap((copies) =>
          copies.filter((copy) => property(property(copy, "routing"), "primary") === true),
        );
        // -1 is that of a shard which nothing was written to.
        const highest = primaries.map((copy) => Math.max(Number(property(property(copy, "seq_no"), "max_seq_no")), 0));
        numbers[name] = BigInt(highest.reduce((sum, number) => sum + number, 0));
      }
    }
    return numbers;
  }

  async #openAll(names: readonly string[]): Promise<PointInTime[]> {
    const { search, signal, stop } = this.#options;
    const points: PointInTime[] = [];
    await each(names, { atOnce: openedAtOnce, stop }, async (name) => {
      const point = await withPatience(signal, () => PointInTime.open(search, name, { signal, failures }));
      points.push(this.#stack.use(point));
    });
    signal.throwIfAborted();
    return points.toSorted((one, other) => (one.index < other.index ? -1 : 1));
  }

  /** Keeps alive the points in time whose turn has not come. One that is lost ends the backup. */
  #renewAll(): NodeJS.Timeout {
    const renew = async (): Promise<void> => {
      try {
        for (const { pointInTime } of this.#open) await pointInTime.renew();
      } catch (error) {
        this.#options.stop.abort(error);
      }
    };
    return setInterval(() => void renew(), renewalMs).unref();
  }

  *#slices(): Generator<[OpenIndex, { readonly id: number; readonly max: number }]> {
    for (const open of this.#open) {
      const max = sliceCount(open.index.documents, this.#options.work.parallelism);
      for (let id = 0; id < max; id++) yield [open, { id, max }];
    }
  }

  async #copy(open: OpenIndex, slice: { readonly id: number; readonly max: number }): Promise<void> {
    const { sink, work } = this.#options;
    const { name, mostHits } = open.index;
    await using writer = sink.open();
    for await (const hits of readSlice(open.pointInTime, { slice, mostHits })) {
      const records = hits.map(recordOf);
      let bytes = 0;
      for (const { byteLength } of records) bytes += byteLength;
      await writer.write(records);
      open.records += records.length;
      open.bytes += bytes;
      work.meter.add(Store.SEARCH, name, records.length, bytes);
    }
    open.streams.push(await writer.seal());
  }

  #unit(
    { index, streams, records, bytes }: OpenIndex,
    product: { readonly name: string; readonly version: string },
  ): MessageInitShape<typeof UnitSchema> {
    this.#options.work.meter.plan(Store.SEARCH, index.name, records);
    return {
      store: Store.SEARCH,
      name: index.name,
      description: {
        case: "searchIndex",
        value: {
          index: index.name,
          definitionJson: index.definition,
          product: product.name,
          serverVersion: product.version,
        },
      },
      streams,
      recordCount: BigInt(records),
      recordBytes: BigInt(bytes),
    };
  }
}

/** A shard of an index that was made just now may not have started yet: the server has no room for it then. */
function described({ client }: SearchStore, name: string, signal: AbortSignal): Promise<SelectedIndex> {
  return withPatience(signal, () => describeIndex(client, name, signal));
}

function recordOf(hit: Hit): Uint8Array {
  return toBinary(SearchRecordSchema, create(SearchRecordSchema, hit));
}

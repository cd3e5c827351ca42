import { create } from "@bufbuild/protobuf";

import { type Stream, StreamSchema } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import type { RecordSink, RecordSource, Work } from "../../../src/backup/contracts.ts";

/** Keeps streams in memory: where a test looks at records or gets in the way of them. */
export interface MemoryStreams extends RecordSink, RecordSource {
  /** The records of a sealed stream. */
  recordsOf(stream: Stream): readonly Uint8Array[];
}

/** Names of streams stand where names of chunks would. */
export function memoryStreams(options: { readonly onWrite?: () => Promise<void> } = {}): MemoryStreams {
  const sealed = new Map<string, Uint8Array[]>();
  const recordsOf = ({ chunks }: Stream): readonly Uint8Array[] => {
    const records = sealed.get(Buffer.from(chunks).toString());
    if (records === undefined) throw new Error("There is no such stream");
    return records;
  };
  return {
    open() {
      const records: Uint8Array[] = [];
      return {
        async write(more) {
          await options.onWrite?.();
          for (const record of more) records.push(Uint8Array.from(record));
        },
        async seal() {
          const name = String(sealed.size);
          sealed.set(name, records);
          const recordBytes = records.reduce((sum, { byteLength }) => sum + byteLength, 0);
          return create(StreamSchema, {
            recordCount: BigInt(records.length),
            recordBytes: BigInt(recordBytes),
            chunks: Buffer.from(name),
          });
        },
        async [Symbol.asyncDispose]() {},
      };
    },
    async *records(stream, signal) {
      const records = recordsOf(stream);
      for (let start = 0; start < records.length; start += 100) {
        signal.throwIfAborted();
        yield records.slice(start, start + 100);
      }
    },
    recordsOf,
  };
}

/** Work that nobody watches. */
export function quietWork(options: { readonly signal?: AbortSignal; readonly parallelism?: number } = {}): Work {
  const { signal = new AbortController().signal, parallelism = 3 } = options;
  return { signal, parallelism, meter: { plan() {}, add() {}, phase() {} } };
}

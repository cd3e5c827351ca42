import { fromBinary } from "@bufbuild/protobuf";

import { type RedisRecord, RedisRecordSchema, type Stream } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import type { RecordSource } from "../contracts.ts";

/** A record of a stream, its place in it, and its size. */
export interface PlacedRecord {
  readonly record: RedisRecord;
  readonly index: number;
  readonly bytes: number;
}

/** Most of what is written or compared at once; one record may be more. */
const batchBytes = 4 * 1024 * 1024;
const batchRecords = 1000;

/** The records of a stream in batches. */
export async function* recordBatches(
  source: RecordSource,
  stream: Stream,
  signal: AbortSignal,
): AsyncGenerator<PlacedRecord[]> {
  let batch: PlacedRecord[] = [];
  let bytes = 0;
  let index = 0;
  for await (const records of source.records(stream, signal)) {
    for (const record of records) {
      if (batch.length === batchRecords || (batch.length > 0 && bytes + record.byteLength > batchBytes)) {
        yield batch;
        [batch, bytes] = [[], 0];
      }
      batch.push({ record: fromBinary(RedisRecordSchema, record), index: index++, bytes: record.byteLength });
      bytes += record.byteLength;
    }
  }
  if (batch.length > 0) yield batch;
}

/** Whether a record is all of a key, or its last part. */
export function endsKey({ part }: RedisRecord): boolean {
  return part === undefined || part.last;
}

/** Whether a key that expires then has expired. `now` in milliseconds since 1970. */
export function hasExpired({ expireTimeMs }: RedisRecord, now: number): boolean {
  return expireTimeMs !== 0n && expireTimeMs <= BigInt(Math.trunc(now));
}

import { toJsonString } from "@bufbuild/protobuf";
import * as fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { ManifestSchema } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { openRepositoryIn } from "../../../src/backup/repository/repository.ts";
import { memoryStorage } from "./memory-storage.ts";
import { intercepted, makeRecords, never, newRepository, readBackup, takeBackup } from "./support.ts";

const MOST = 256 * 1024; // the largest chunk

describe.for([{ encrypted: true }, { encrypted: false }])("encrypted: $encrypted", (options) => {
  let place: Awaited<ReturnType<typeof newRepository>>;
  beforeAll(async () => {
    place = await newRepository(options);
  });
  afterAll(() => place[Symbol.asyncDispose]());

  test("gives back any streams of any records", async () => {
    let run = 0;
    const record = fc.oneof(
      { weight: 5, arbitrary: fc.uint8Array({ maxLength: 300 }) },
      { weight: 2, arbitrary: fc.tuple(fc.nat({ max: 255 }), fc.integer({ min: 0, max: 3 * MOST })).map(patterned) },
      { weight: 1, arbitrary: fc.integer({ min: -8, max: 8 }).map((delta) => patterned([delta & 255, MOST + delta])) },
    );
    const streams = fc.array(fc.array(record, { maxLength: 40 }), { minLength: 0, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(streams, fc.integer({ min: 1, max: 50 }), async (written, batch) => {
        const backupId = `p${run++}`;
        const manifest = await takeBackup(place.repository, backupId, written, batch);
        const read = await readBackup(place.repository, backupId);
        expect(read.map((records) => records.length)).toEqual(written.map((records) => records.length));
        const same = read.every((records, s) =>
          records.every((bytes, i) => Buffer.compare(bytes, at(written, s, i)) === 0),
        );
        expect(same).toBe(true);
        const stored = await place.repository.get(backupId, never);
        expect(toJsonString(ManifestSchema, stored)).toBe(toJsonString(ManifestSchema, manifest));
      }),
      { seed: 20_261, numRuns: 40 },
    );
  });

  test("gives back records of every size around the limits, and a very long one", async () => {
    const sizes = [
      0,
      1,
      3,
      4,
      16 * 1024,
      MOST - 5,
      MOST - 4,
      MOST - 3,
      MOST,
      MOST + 1,
      2 * MOST,
      17_000_001,
      0,
      0,
      70_000,
    ];
    const written = sizes.map((size, i) => patterned([i, size]));
    await takeBackup(place.repository, "sizes", [written], 3);
    const [read] = await readBackup(place.repository, "sizes");
    expect(read?.map(({ byteLength }) => byteLength)).toEqual(sizes);
    expect(read?.every((bytes, i) => Buffer.compare(bytes, at([written], 0, i)) === 0)).toBe(true);
  });

  test("keeps no reference to what is written", async () => {
    await using writer = await place.repository.begin("reused", never);
    await using stream = writer.open();
    const shared = Buffer.alloc(50_000);
    for (let i = 0; i < 40; i++) {
      shared.fill(i);
      await stream.write([shared]);
    }
    shared.fill(255);
    const sealed = await stream.seal();
    const unit = { name: "u", streams: [sealed], recordCount: 40n, recordBytes: 2_000_000n };
    await writer.seal({ units: [unit] });
    const [read] = await readBackup(place.repository, "reused");
    expect(read?.map((bytes) => bytes.every((byte) => byte === bytes[0]) && bytes[0])).toEqual(
      Array.from({ length: 40 }, (_, i) => i),
    );
  });

  test("reads a stream whose references fill chunks of their own", async () => {
    const records = makeRecords(3000, 7, 4000);
    const manifest = await takeBackup(place.repository, "long", [records]);
    const stream = manifest.units[0]?.streams[0];
    expect(stream?.indirect).toBe(true);
    expect(stream?.chunks.byteLength).toBeLessThan(60 * 8);
    expect((await readBackup(place.repository, "long"))[0]).toEqual(records);
    expect(await place.repository.verify(manifest, {}, never)).toMatchObject({
      recordCount: 3000n,
      recordBytes: 12_000_000n,
    });
  });

  test("counts what it verifies and says so on the way", async () => {
    const streams = [makeRecords(500, 3), makeRecords(700, 4)];
    const manifest = await takeBackup(place.repository, "counted", streams);
    const seen = { records: 0, bytes: 0 };
    const onProgress = (unit: { name: string }, records: number, bytes: number) => {
      expect(unit.name).toBe("shop.orders");
      seen.records += records;
      seen.bytes += bytes;
    };
    const verified = await place.repository.verify(manifest, { onProgress }, never);
    expect(verified).toMatchObject({ recordCount: 1200n, recordBytes: 1_200_000n });
    expect(seen).toEqual({ records: 1200, bytes: 1_200_000 });
  });
});

/** Bytes that depend on the seed and are no run of one value. */
function patterned([seed, length]: readonly [number, number]): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = seed + 1;
  for (let i = 0; i < length; i++) {
    if (i % 7 === 0) state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    bytes[i] = state >>> 16;
  }
  return bytes;
}

function at(streams: readonly (readonly Uint8Array[])[], stream: number, index: number): Uint8Array {
  const bytes = streams[stream]?.[index];
  if (bytes === undefined) throw new Error("More was read than was written");
  return bytes;
}

test("a listing that starts below a backup reads no manifest of those above it", async () => {
  const storage = memoryStorage();
  const read: string[] = [];
  const observed = intercepted(storage, (call, name) => {
    if (call === "get" && name.startsWith("manifests/")) read.push(name);
  });
  await using repository = await openRepositoryIn(observed);
  for (const backupId of ["a", "b", "c"]) await takeBackup(repository, backupId, [makeRecords(3, 7)]);
  read.length = 0;
  const listed = await Array.fromAsync(repository.list(never, "c"));
  expect(listed.map(({ backupId }) => backupId)).toEqual(["b", "a"]);
  expect(read).toEqual(["manifests/b", "manifests/a"]);
});

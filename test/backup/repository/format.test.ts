import { createHash } from "node:crypto";
import { cp, readFile } from "node:fs/promises";
import { join } from "node:path";

import { describe, expect, test } from "vitest";

import { openRepository } from "../../../src/backup/repository/repository.ts";
import { GOLDEN, goldenStreams } from "./golden/golden.ts";
import { readMinimally } from "./minimal-reader.ts";
import { makeRecords, never, newFolder, newRepository, readBackup, takeBackup } from "./support.ts";

test.for([{ encrypted: true }, { encrypted: false }])(
  "a reader made from the document alone reads what is written (encrypted: $encrypted)",
  async (options) => {
    await using place = await newRepository(options);
    const streams = [
      makeRecords(4000, 1, 900),
      [Buffer.concat(makeRecords(900, 2)), Buffer.alloc(0)],
      [],
      [Buffer.alloc(700_000)],
    ];
    const manifest = await takeBackup(place.repository, "b-1", streams);
    expect(manifest.units[0]?.streams.map(({ indirect }) => indirect)).toEqual([true, false, false, false]);
    const read = readMinimally(place.dir, "b-1", options.encrypted ? place.keyFile : undefined);
    expect(read.streams).toEqual(streams);
    expect(read.rootHash).toBe(Buffer.from(manifest.rootHash).toString("hex"));
  },
);

describe.for(GOLDEN)("the repository of version 1 in golden/$folder", ({ folder, encrypted, rootHash }) => {
  const source = join(import.meta.dirname, "golden", folder);
  const keyFile = join(import.meta.dirname, "golden", "key");

  test("is read by the minimal reader", () => {
    const read = readMinimally(source, "golden", encrypted ? keyFile : undefined);
    expect(read.rootHash).toBe(rootHash);
    expect(read.streams).toEqual(goldenStreams());
  });

  test("is listed, read and verified", async () => {
    await using copy = await newFolder();
    await cp(source, copy.dir, { recursive: true });
    await using repository = await openRepository({ dir: copy.dir, ...(encrypted ? { keyFile } : {}) });
    const manifest = await repository.get("golden", never);
    expect(Buffer.from(manifest.rootHash).toString("hex")).toBe(rootHash);
    expect(await readBackup(repository, "golden")).toEqual(goldenStreams());
    await repository.verify(manifest, {}, never);
    // Where chunks end has not changed either: its data is known.
    const again = await takeBackup(repository, "again", goldenStreams());
    expect(again.storedBytes).toBe(0n);
    await repository.delete("golden", { validateOnly: false }, never);
    expect(await readBackup(repository, "again")).toEqual(goldenStreams());
  });
});

test("the golden records are those that were written", async () => {
  const hash = createHash("sha256");
  for (const record of goldenStreams().flat()) hash.update(record);
  expect(hash.digest("hex")).toBe(
    (await readFile(join(import.meta.dirname, "golden", "records.sha256"), "utf8")).trim(),
  );
});

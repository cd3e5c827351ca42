import { mkdirSync, readdirSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { expect, test } from "vitest";

import { Directory } from "../../../src/stores/volumes/directory.ts";
import { discard, removeLeftovers } from "../../../src/stores/volumes/own-files.ts";
import { temporaryFolder } from "./support.ts";

const { signal } = new AbortController();

test("of what was being written only what nobody touches any more is removed, whatever time it is given", async () => {
  await using folder = await temporaryFolder();
  await using own = await Directory.openRoot(folder.path);
  const at = (name: string) => join(folder.path, name);
  writeFileSync(at("tmp-file"), "being restored");
  symlinkSync("nowhere", at("tmp-link"));
  writeFileSync(at("usage"), "stays");
  mkdirSync(at("tmp-directory"));
  // A restored file has the time of its original before it has its name.
  utimesSync(at("tmp-file"), 1000, 1000);
  await removeLeftovers(own, { beforeMs: Date.now() - 60_000, signal });
  expect(readdirSync(folder.path).toSorted()).toEqual(["tmp-directory", "tmp-file", "tmp-link", "usage"]);
  await removeLeftovers(own, { beforeMs: Date.now() + 60_000, signal });
  expect(readdirSync(folder.path).toSorted()).toEqual(["tmp-directory", "usage"]);
});

test("what is discarded has lost its name at once, and what is left of it is removed later", async () => {
  await using folder = await temporaryFolder();
  await using own = await Directory.openRoot(folder.path);
  const name = Buffer.from("migration-1");
  await discard(own, name, signal);
  mkdirSync(join(folder.path, "migration-1", "a", "b"), { recursive: true });
  const ended = AbortSignal.abort(new Error("no time"));
  await expect(discard(own, name, ended)).rejects.toThrow("no time");
  expect(readdirSync(folder.path)).toEqual([expect.stringMatching(/^discarded-/)]);
  await removeLeftovers(own, { beforeMs: 0, signal });
  expect(readdirSync(folder.path)).toEqual([]);
});

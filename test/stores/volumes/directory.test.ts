import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";

import { expect, test } from "vitest";

import { isReason } from "../../../src/errors.ts";
import { translateStoreError } from "../../../src/stores/errors.ts";
import { Directory } from "../../../src/stores/volumes/directory.ts";
import { isChangedMeanwhile } from "../../../src/stores/volumes/failures.ts";
import { deepestLevel, joinPath, shownPath, type Step, walk } from "../../../src/stores/volumes/walk.ts";
import { startChild } from "../../support/child.ts";
import { temporaryFolder } from "./support.ts";

const never = new AbortController().signal;
const hidden = "what is outside";

async function steps(root: Directory): Promise<Step[]> {
  return Array.fromAsync(walk(root, { signal: never }));
}

function pathsIn(found: readonly Step[]): string[] {
  return found
    .flatMap((step) => (step.type === "entries" ? step.entries.map(({ name }) => joinPath(step.path, name)) : []))
    .map((path) => shownPath(path))
    .toSorted();
}

test.for([
  ["a parent", Buffer.from("..")],
  ["the directory itself", Buffer.from(".")],
  ["nothing", Buffer.alloc(0)],
  ["a path", Buffer.from("a/b")],
  ["an absolute path", Buffer.from("/etc/passwd")],
  ["a zero byte", Buffer.from("a\0b")],
  ["too many bytes", Buffer.alloc(256, "x")],
] as const)("a name that is %s is refused by everything", async ([, name]) => {
  await using folder = await temporaryFolder();
  await using root = await Directory.openRoot(folder.path);
  const uses: (() => Promise<unknown>)[] = [
    () => root.open(name),
    () => root.find(name),
    () => root.openFile(name),
    () => root.createFile(name),
    () => root.makeDirectory(name),
    () => root.makeSymlink(name, Buffer.from("x")),
    () => root.remove(name),
    () => root.removeDirectory(name),
    () => root.rename(name, root, Buffer.from("x")),
    () => root.rename(Buffer.from("x"), root, name),
    () => root.link(Buffer.from("x"), root, name),
    () => root.setTimes(name, 0),
    () => root.readSymlink(name),
  ];
  for (const use of uses) await expect(use()).rejects.toSatisfy((error) => isReason(error, "VOLUME_PATH_REFUSED"));
});

test("odd names are names as any other", async () => {
  await using folder = await temporaryFolder();
  await using root = await Directory.openRoot(folder.path);
  const names = [
    Buffer.from([0x66, 0xff, 0xfe]),
    Buffer.from("-rf"),
    Buffer.from("a\nb"),
    Buffer.from("...\\x41"),
    Buffer.alloc(255, "é"),
    Buffer.from(" "),
    Buffer.from("$(reboot)`'\""),
  ].map((name) => name.subarray(0, 255));
  for (const name of names) {
    await using file = await root.createFile(name);
    await file.writeFile(name);
  }
  const found = (await Array.fromAsync(root.entries())).flat().map(({ name }) => name.toString("hex"));
  expect(found.toSorted()).toEqual(names.map((name) => name.toString("hex")).toSorted());
  for (const name of names) {
    await using file = await root.openFile(name);
    expect(await file.readFile()).toEqual(name);
    await root.remove(name);
  }
  expect(readdirSync(folder.path)).toEqual([]);
});

test("paths are shown so that no two look alike and none changes a terminal", () => {
  const shown = [[0x66, 0xff], Buffer.from("f\\xff"), Buffer.from("é\n\u202e"), Buffer.from([0xc2, 0x85])].map((path) =>
    shownPath(Buffer.from(path)),
  );
  expect(shown).toEqual(["f\\xff", "f\\\\xff", "é\\x0a\\xe2\\x80\\xae", "\\xc2\\x85"]);
});

test("a symlink is an entry and leads nowhere", async () => {
  await using folder = await temporaryFolder();
  await using outside = await temporaryFolder();
  writeFileSync(join(outside.path, "secret"), hidden);
  symlinkSync(outside.path, join(folder.path, "directory"));
  symlinkSync(join(outside.path, "secret"), join(folder.path, "file"));
  symlinkSync(join(outside.path, "made"), join(folder.path, "dangling"));
  await using root = await Directory.openRoot(folder.path);
  expect(pathsIn(await steps(root))).toEqual(["dangling", "directory", "file"]);
  await expect(root.open(Buffer.from("directory"))).rejects.toSatisfy(isChangedMeanwhile);
  await expect(root.openFile(Buffer.from("file"))).rejects.toSatisfy(isChangedMeanwhile);
  await expect(root.createFile(Buffer.from("dangling"))).rejects.toThrow("EEXIST");
  await root.setTimes(Buffer.from("file"), 1);
  await root.remove(Buffer.from("file"));
  await root.remove(Buffer.from("directory"));
  expect(readFileSync(join(outside.path, "secret"), "utf8")).toBe(hidden);
  expect(readdirSync(outside.path)).toEqual(["secret"]);
});

test("what is found to be otherwise in an open directory is told as a change, and elsewhere as nothing", async () => {
  await using folder = await temporaryFolder();
  await using root = await Directory.openRoot(folder.path);
  const missing: unknown = await root.remove(Buffer.from("missing")).catch((error: unknown) => error);
  expect(isReason(translateStoreError(missing), "VOLUME_CHANGED")).toBe(true);
  const elsewhere: unknown = await rm(join(folder.path, "missing")).catch((error: unknown) => error);
  expect(translateStoreError(elsewhere)).toBe(elsewhere);
});

test("a pipe is not waited for, and no file", async () => {
  await using folder = await temporaryFolder();
  execFileSync("mkfifo", [join(folder.path, "pipe")]);
  await using root = await Directory.openRoot(folder.path);
  await expect(root.openFile(Buffer.from("pipe"))).rejects.toSatisfy((error) => isReason(error, "VOLUME_PATH_REFUSED"));
});

test("where /proc shows no open files, volumes are refused", async () => {
  await using folder = await temporaryFolder();
  for (const place of [join(folder.path, "proc"), folder.path, "/dev"]) {
    const opening = Directory.openRoot(folder.path, { place });
    await expect(opening).rejects.toSatisfy((error) => isReason(error, "VOLUMES_NOT_SUPPORTED"));
  }
});

test("a walk meets each entry once, and says which directories are too deep", async () => {
  await using folder = await temporaryFolder();
  let deep = join(folder.path, "deep");
  for (let level = 0; level <= deepestLevel + 3; level++, deep = join(deep, "d")) mkdirSync(deep);
  mkdirSync(join(folder.path, "many"));
  for (let file = 0; file < 300; file++) writeFileSync(join(folder.path, "many", String(file)), "");
  await using root = await Directory.openRoot(folder.path);
  const found = await steps(root);
  const paths = pathsIn(found);
  expect(paths.filter((path) => path.startsWith("many/"))).toHaveLength(300);
  expect(new Set(paths).size).toBe(paths.length);
  expect(found.filter(({ type }) => type === "skipped")).toMatchObject([{ why: "too deep" }]);
  expect(found.at(-1)).toMatchObject({ type: "end", path: Buffer.alloc(0) });
});

test("whoever swaps a directory for a symlink leads nobody outside", async () => {
  await using folder = await temporaryFolder();
  await using outside = await temporaryFolder();
  const swapped = join(folder.path, "swapped");
  mkdirSync(join(swapped, "below"), { recursive: true });
  mkdirSync(join(outside.path, "below"));
  for (const at of [swapped, join(swapped, "below")]) writeFileSync(join(at, "file"), "inside");
  for (const at of [outside.path, join(outside.path, "below")]) writeFileSync(join(at, "file"), hidden);
  await using _ = await startChild(join(import.meta.dirname, "swapper.ts"), [swapped, outside.path]);

  await using root = await Directory.openRoot(folder.path);
  const [name, below, file, made] = ["swapped", "below", "file", "made"].map((text) => Buffer.from(text));
  if (!name || !below || !file || !made) throw new Error("Four names");
  const met = { inside: 0, refused: 0 };
  for (let round = 0; met.inside < 200 || met.refused < 2000; round++) {
    try {
      await using directory = await root.open(name);
      await using inner = await directory.open(below);
      for (const at of [directory, inner]) {
        await using read = await at.openFile(file);
        expect(await read.readFile("utf8")).toBe("inside");
        await (await at.createFile(made)).close();
        await at.setTimes(made, round);
        await at.remove(made);
      }
      for await (const step of walk(root, { signal: never })) {
        if (step.type === "entries") for (const { stat } of step.entries) if (stat.isFile()) expect(stat.size).toBe(6n);
      }
      met.inside++;
    } catch (error) {
      if (!isChangedMeanwhile(error)) throw error;
      met.refused++;
    }
  }
  expect(new Set(readdirSync(outside.path, { recursive: true, encoding: "utf8" }))).toEqual(
    new Set(["below", "below/file", "file"]),
  );
  expect(readFileSync(join(outside.path, "file"), "utf8")).toBe(hidden);
});

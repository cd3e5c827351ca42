import { execFile } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";

import { expect, test } from "vitest";

import { Directory } from "../../../src/stores/volumes/directory.ts";
import { readFileOf } from "../../../src/stores/volumes/file-reader.ts";
import { TreeWriter } from "../../../src/stores/volumes/tree-writer.ts";
import { temporaryFolder } from "./support.ts";

const run = promisify(execFile);
const { signal } = new AbortController();
const child = join(import.meta.dirname, "child.ts");
const setpriv = "/usr/bin/setpriv";

test("a directory in which nothing may be looked at is passed over, and told", async (context) => {
  const isRoot = process.getuid?.() === 0;
  if (isRoot && !existsSync(setpriv))
    context.skip("root may look at everything, and setpriv is not there to take that away");
  await using folder = await temporaryFolder();
  for (const name of ["closed", "open"]) {
    mkdirSync(join(folder.path, name));
    writeFileSync(join(folder.path, name, "file"), "x".repeat(100));
  }
  const closed = join(folder.path, "closed");
  chmodSync(closed, 0o444);
  const unprivileged = [setpriv, "--bounding-set", "-dac_override,-dac_read_search"];
  const [command, ...args] = [...(isRoot ? unprivileged : []), process.execPath, child, folder.path];
  const { stdout } = await run(command, args);
  chmodSync(closed, 0o755);
  const { met, sums } = JSON.parse(stdout) as { met: string[]; sums: object };
  expect(met.toSorted()).toEqual(["end ", "end open", "entries closed,open", "entries file", "skipped closed denied"]);
  expect(sums).toMatchObject({ bytes: 100, files: 1, directories: 2, skipped: 1 });
});

test("what has become a socket or a pipe since it was met is no file any more", async () => {
  await using folder = await temporaryFolder();
  const server = createServer().listen(join(folder.path, "socket"));
  await once(server, "listening");
  await run("mkfifo", [join(folder.path, "pipe")]);
  await using root = await Directory.openRoot(folder.path);
  for (const name of ["socket", "pipe"]) expect(await readFileOf(root, { name: Buffer.from(name) })).toBe("gone");
  server.close();
});

test("what holds nothing but zeros takes no room, and is read as it was", async () => {
  await using folder = await temporaryFolder();
  await using top = await Directory.openRoot(folder.path);
  const part = 256 * 1024;
  const parts = [
    Buffer.alloc(part),
    Buffer.alloc(part, "x"),
    Buffer.alloc(part),
    Buffer.alloc(part / 2),
    Buffer.alloc(7),
  ];
  parts[2]?.writeUInt8(1, part - 1);
  const [whole, ended] = [Buffer.concat(parts), Buffer.concat(parts.slice(0, 4))];
  const meta = { mode: 0o600, mtimeNs: 0n, userId: process.getuid?.() ?? 0, groupId: process.getgid?.() ?? 0 };
  const options = { occupied: "refuse", direct: true, signal } as const;
  await using writer = new TreeWriter({ top, own: top }, options);
  const streamed = async function* (some: readonly Buffer[]) {
    yield* some;
  };
  await writer.putParts(Buffer.from("whole"), streamed(parts), meta);
  await writer.putParts(Buffer.from("ended"), streamed(parts.slice(0, 4)), meta);
  await writer.putParts(Buffer.from("nothing"), streamed([Buffer.alloc(part), Buffer.alloc(part)]), meta);
  expect(readFileSync(join(folder.path, "whole")).equals(whole)).toBe(true);
  expect(readFileSync(join(folder.path, "ended")).equals(ended)).toBe(true);
  const nothing = statSync(join(folder.path, "nothing"));
  expect(nothing.size).toBe(2 * part);
  expect(nothing.blocks * 512).toBeLessThan(part);
});

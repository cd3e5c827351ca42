import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";

import { expect, test } from "vitest";

import { openRepository } from "../../../src/backup/repository/repository.ts";
import { idsIn, makeRecords, never, newFolder, readBackup, takeBackup } from "./support.ts";

const script = join(import.meta.dirname, "child.ts");
const MB = 1e6;

type Child = ChildProcessByStdio<null, Readable, null>;

/** What the child says, line by line. */
async function* linesOf(child: Child): AsyncGenerator<Record<string, number | string>> {
  for await (const line of createInterface(child.stdout)) yield JSON.parse(line) as Record<string, number | string>;
}

function start(command: string, args: readonly string[]): Child {
  return spawn(command, args, { stdio: ["ignore", "pipe", "inherit"] });
}

test.concurrent("memory does not grow with the size of a backup", async () => {
  await using folder = await newFolder();
  const options = ["--expose-gc", "--max-old-space-size=64"];
  const child = start(process.execPath, [...options, script, "write", folder.dir, folder.keyFile, "200"]);
  const said = Object.assign({}, ...(await Array.fromAsync(linesOf(child)))) as Record<string, number>;
  expect(said).not.toHaveProperty("reason");
  expect(said["bytesWritten"]).toBeGreaterThan(90 * MB);
  expect(said["writePeak"]).toBeLessThan(150 * MB);
  expect(said["readPeak"]).toBeLessThan(150 * MB);
});

test.concurrent("what a process had stored when it was killed is found by the next one, and nothing half is listed", async () => {
  await using folder = await newFolder();
  const { dir, keyFile } = folder;
  const child = start(process.execPath, [script, "endless", dir, keyFile]);
  let stored = 0;
  for await (const { bytesWritten, reason } of linesOf(child)) {
    expect(reason).toBeUndefined();
    stored = Number(bytesWritten);
    if (stored > 30 * MB) break;
  }
  child.kill("SIGKILL");
  await once(child, "exit");

  await using repository = await openRepository({ dir, keyFile });
  expect(await idsIn(repository)).toEqual([]);
  // The dead one had read twice as much of the same data.
  const again = start(process.execPath, [script, "write", dir, keyFile, "30"]);
  const said = Object.assign({}, ...(await Array.fromAsync(linesOf(again)))) as Record<string, number>;
  expect(said).not.toHaveProperty("reason");
  const manifest = await repository.get("child", never);
  expect(Number(manifest.storedBytes)).toBeLessThan(MB);
  await repository.verify(manifest, {}, never);
});

test.concurrent("two processes that write the same data at once both end with whole backups", async () => {
  await using folder = await newFolder();
  const { dir, keyFile } = folder;
  await using repository = await openRepository({ dir, keyFile });
  const child = start(process.execPath, [script, "write", dir, keyFile, "40"]);
  const records = makeRecords(20_000);
  const [lines] = await Promise.all([
    Array.fromAsync(linesOf(child)),
    takeBackup(repository, "one", [records]),
    takeBackup(repository, "two", [records.toReversed(), records]),
  ]);
  expect(Object.assign({}, ...lines)).not.toHaveProperty("reason");
  expect(await idsIn(repository)).toEqual(["two", "one", "child"]);
  for (const backupId of ["one", "two", "child"]) {
    await repository.verify(await repository.get(backupId, never), {}, never);
  }
  expect(await readBackup(repository, "two")).toEqual([records.toReversed(), records]);
});

test.concurrent("a repository without room says so, and the backup does not exist", async () => {
  await using folder = await newFolder();
  const { dir, keyFile } = folder;
  // A limit on the size of files stands in for a full disk: the system refuses the write in the same way.
  const limited = 'trap "" XFSZ; ulimit -f 4000; exec "$0" "$@"';
  const child = start("bash", ["-c", limited, process.execPath, script, "write", dir, keyFile, "100"]);
  const said = await Array.fromAsync(linesOf(child));
  expect(said.at(-1)).toEqual({ reason: "BACKUP_REPOSITORY_FULL" });
  await using repository = await openRepository({ dir, keyFile });
  expect(await idsIn(repository)).toEqual([]);
});

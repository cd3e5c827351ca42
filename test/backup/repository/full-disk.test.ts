import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { expect, test } from "vitest";

import { openRepository } from "../../../src/backup/repository/repository.ts";
import { failureOf, idsIn, never, readBackup, takeBackup } from "./support.ts";

/** A file system of a few megabytes, or undefined where this user may not mount one. */
function smallDisk(megabytes: number): ({ readonly dir: string } & Disposable) | undefined {
  const dir = mkdtempSync(join(tmpdir(), "lucid-small-disk-"));
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${megabytes}m`, "tmpfs", dir], { stdio: "ignore" });
  } catch {
    rmdirSync(dir);
    return undefined;
  }
  return {
    dir,
    [Symbol.dispose]: () => {
      execFileSync("umount", [dir]);
      rmdirSync(dir);
    },
  };
}

test("on a full disk a backup fails as a whole, and deleting another one makes room", async (context) => {
  using disk = smallDisk(24);
  if (disk === undefined) {
    context.skip("this user may not mount a file system");
    return;
  }
  const records = () => Array.from({ length: 140 }, () => randomBytes(100_000));
  await using repository = await openRepository({ dir: join(disk.dir, "repository") });
  const kept = records().slice(0, 10);
  await takeBackup(repository, "kept", [kept]);
  await takeBackup(repository, "large", [records()]);
  expect(await failureOf(() => takeBackup(repository, "too-much", [records()]))).toMatchObject({
    reason: "BACKUP_REPOSITORY_FULL",
  });
  expect(await idsIn(repository)).toEqual(["large", "kept"]);

  // Not a byte more goes in.
  const filler = join(disk.dir, "filler");
  execFileSync("sh", ["-c", 'cat /dev/zero > "$0" 2> /dev/null || true', filler]);
  const { freedBytes } = await repository.delete("large", { validateOnly: false }, never);
  expect(freedBytes).toBeGreaterThan(14_000_000n);
  await takeBackup(repository, "next", [records().slice(0, 60)]);
  expect(await idsIn(repository)).toEqual(["next", "kept"]);
  expect(await readBackup(repository, "kept")).toEqual([kept]);
});

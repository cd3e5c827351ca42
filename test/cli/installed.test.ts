import { execFile } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { promisify } from "node:util";

import { expect, test } from "vitest";

import { projectFolder } from "../../local/project.ts";
import { ownFolder } from "../local/support.ts";

const run = promisify(execFile);

/** What `npm install lucid-data` leaves in a folder: the files that npm packs, beside what they depend on. */
async function install(folder: string): Promise<string> {
  const { stdout } = await run("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], { cwd: projectFolder });
  const [{ files }] = JSON.parse(stdout) as [{ files: readonly { path: string }[] }];
  const modules = join(folder, "node_modules");
  for (const { path } of files) {
    const target = join(modules, "lucid-data", path);
    mkdirSync(dirname(target), { recursive: true });
    cpSync(join(projectFolder, path), target);
  }
  for (const name of readdirSync(join(projectFolder, "node_modules"))) {
    if (!name.startsWith(".")) symlinkSync(join(projectFolder, "node_modules", name), join(modules, name));
  }
  return modules;
}

test("it runs from any folder, from a clone and as a dependency of something else", async () => {
  using folder = ownFolder();
  const modules = await install(folder.path);
  const bin = join(modules, ".bin");
  mkdirSync(bin);
  symlinkSync("../lucid-data/src/cli/lucid.mjs", join(bin, "lucid"));
  symlinkSync(join(projectFolder, "src", "cli", "lucid.mjs"), join(bin, "linked"));
  expect(readdirSync(join(modules, "lucid-data")).toSorted()).toEqual([
    "LICENSE",
    "README.md",
    "gen",
    "package.json",
    "src",
  ]);
  const runs = ["lucid", "linked"].map((name) =>
    run(process.execPath, [join(bin, name), "status", "--address", "localhost:1"], { cwd: folder.path }),
  );
  const ended = await Promise.allSettled(runs);
  // Both have got as far as calling a service, and warn of nothing.
  const nobody = { code: 1, stderr: expect.stringMatching(/^lucid: No service answers/) as unknown };
  expect(ended).toMatchObject([{ reason: nobody }, { reason: nobody }]);
});

import { execFile } from "node:child_process";
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";

import { checkLayers } from "./layers.ts";
import { localPath, projectFolder, runCommand, say } from "./project.ts";

/** One check: a command line that must succeed, or a function that names what is wrong. */
interface Check {
  readonly name: string;
  readonly run: readonly string[] | (() => Promise<readonly string[]>);
}

/** Everything that `npm run check` checks. */
const checks: readonly Check[] = [
  { name: "format (oxfmt)", run: ["oxfmt", "--check", "."] },
  { name: "lint (oxlint)", run: ["oxlint", "--type-aware", "--deny-warnings"] },
  { name: "types (tsc)", run: ["tsc", "--noEmit"] },
  { name: "layers of src/", run: async () => checkLayers(projectFolder) },
  { name: "nothing unused (knip)", run: ["knip", "--no-progress"] },
  { name: "contracts: lint (buf)", run: ["buf", "lint"] },
  {
    name: "contracts: format (buf)",
    run: ["buf", "format", "--diff", "--exit-code", "--path", "proto/lucid"],
  },
  { name: "contracts: compatible with main (buf)", run: breaksMain },
  { name: "gen/ is fresh", run: generatedIsStale },
  { name: "docs/configuration.md is fresh", run: [process.execPath, "docs/configuration.ts", "--check"] },
  { name: "docs/cli.md is fresh", run: [process.execPath, "docs/cli.ts", "--check"] },
];

/** Runs every check and tells each result; true where all passed. */
export async function runChecks(): Promise<boolean> {
  const began = performance.now();
  let failed = 0;
  // Two at a time, so that a small machine stays usable; told in order.
  const waiting = [...checks];
  const work = async () => {
    for (let check = waiting.shift(); check !== undefined; check = waiting.shift()) {
      const started = performance.now();
      // One check after the other is the point: each worker takes the next when it is done.
      const wrong = typeof check.run === "function" ? (await check.run()).join("\n") : await outputIfFailing(check.run);
      const seconds = ((performance.now() - started) / 1000).toFixed(1);
      say(wrong === "" ? `✓ ${check.name} (${seconds} s)` : `✗ ${check.name} (${seconds} s)\n${indent(wrong)}`);
      if (wrong !== "") failed++;
    }
  };
  await Promise.all([work(), work()]);
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  say(
    failed === 0 ? `All ${checks.length} checks passed in ${seconds} s` : `${failed} of ${checks.length} checks failed`,
  );
  return failed === 0;
}

/** Gives what a command printed where it failed, and nothing where it succeeded. */
async function outputIfFailing([file = "", ...args]: readonly string[]): Promise<string> {
  return new Promise((resolve) => {
    execFile(file, args, { cwd: projectFolder, maxBuffer: 64 * 1024 * 1024 }, (error, stdout, stderr) => {
      if (error === null) return resolve("");
      resolve(`${stdout}${stderr}`.trim() || error.message);
    });
  });
}

async function breaksMain(): Promise<readonly string[]> {
  for (const branch of ["origin/main", "main"]) {
    if ((await outputIfFailing(["git", "cat-file", "-e", `${branch}:proto`])) !== "") continue;
    return lines(await outputIfFailing(["buf", "breaking", "--against", `.git#ref=${branch}`]));
  }
  return []; // there is nothing yet to be compatible with
}

async function generatedIsStale(): Promise<readonly string[]> {
  const folder = mkdtempSync(join(localPath(), "generated-"));
  try {
    const failure = await outputIfFailing(["buf", "generate", "--output", folder]);
    if (failure !== "") return lines(failure);
    const described = join(folder, "gen", "descriptors.binpb");
    const undescribed = await outputIfFailing(["buf", "build", "--as-file-descriptor-set", "-o", described]);
    if (undescribed !== "") return lines(undescribed);
    const files = (root: string) => new Set(existsSync(root) ? globSync("**/*.{ts,binpb}", { cwd: root }) : []);
    const [fresh, committed] = [files(join(folder, "gen")), files(join(projectFolder, "gen"))];
    return [...fresh.union(committed)]
      .filter((file) => {
        if (!fresh.has(file) || !committed.has(file)) return true;
        return !readFileSync(join(folder, "gen", file)).equals(readFileSync(join(projectFolder, "gen", file)));
      })
      .map((file) => `gen/${file} differs from what npm run generate makes`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function lines(text: string): readonly string[] {
  return text === "" ? [] : text.split("\n");
}

function indent(text: string): string {
  return text.replaceAll(/^/gm, "    ");
}

if (import.meta.main) {
  await runCommand(async () => ((await runChecks()) ? 0 : 1));
}

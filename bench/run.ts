import { globSync } from "node:fs";
import { basename, join } from "node:path";

import { runInForeground } from "../local/foreground.ts";
import { Complaint, projectFolder, runCommand } from "../local/project.ts";

/**
 * Runs each benchmark in a process of its own, so that none meets the heap or the compiled code of another. Arguments: the names
 * of some, all where there is none, then options that each of them gets. What a figure is never makes this fail.
 */
await runCommand(async () => {
  const args = process.argv.slice(2);
  const options = args.findIndex((argument) => argument.startsWith("--"));
  const named = options === -1 ? args : args.slice(0, options);
  const there = globSync("bench/*.ts", { cwd: projectFolder })
    .map((file) => basename(file, ".ts"))
    .filter((name) => name !== "run")
    .toSorted();
  const unknown = named.find((name) => !there.includes(name));
  if (unknown !== undefined) throw new Complaint(`There is no benchmark ${unknown}, only ${there.join(", ")}`);
  for (const name of named.length > 0 ? named : there) {
    const rest = options === -1 ? [] : args.slice(options);
    const code = await runInForeground(process.execPath, [join("bench", `${name}.ts`), ...rest]);
    if (code !== 0) return code;
  }
  return 0;
});

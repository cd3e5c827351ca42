import { runInForeground } from "./foreground.ts";
import { runCommand } from "./project.ts";

/** Everything that is made from `proto/`, from the settings and from the command line. */
const commands: readonly (readonly [string, ...string[]])[] = [
  ["buf", "generate"],
  // With comments, which reflection shows and generated code leaves out.
  ["buf", "build", "--as-file-descriptor-set", "-o", "gen/descriptors.binpb"],
  [process.execPath, "docs/configuration.ts"],
  [process.execPath, "docs/cli.ts"],
];

await runCommand(async () => {
  for (const [file, ...args] of commands) {
    const code = await runInForeground(file, args);
    if (code !== 0) return code;
  }
  return 0;
});

import { join } from "node:path";

import { runInForeground } from "../../local/foreground.ts";
import { goTool } from "../../local/go-tools.ts";
import { runCommand, say } from "../../local/project.ts";

/** Runs the public Connect conformance suite against both listeners, each for all that it speaks. */
await runCommand(async () => {
  const tool = await goTool("connectconformance");
  if (tool === undefined) {
    say("Skipped: the Connect conformance suite, which is built with Go, and Go is not on this machine.");
    return 0;
  }
  const here = (name: string) => join(import.meta.dirname, name);
  for (const listener of ["grpc", "http"]) {
    say(`Conformance of the ${listener} listener …`);
    const known = listener === "grpc" ? ["--known-failing", `@${here("grpc-known-failing.txt")}`] : [];
    const server = ["--", process.execPath, here("server.ts"), listener];
    const args = ["--mode", "server", "--conf", here(`${listener}.yaml`), ...known, ...server];
    const code = await runInForeground(tool, args);
    if (code !== 0) return code;
  }
  return 0;
});

import { existsSync } from "node:fs";
import { join } from "node:path";

import { localFolder } from "./project.ts";
import { installed, runTool } from "./tool.ts";
import { findProgram, go } from "./toolchains.ts";

/** Tools that are built from source with Go, at exact versions. */
const tools = {
  grpcurl: "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4",
  connectconformance: "connectrpc.com/conformance/cmd/connectconformance@v1.0.7",
} as const;

export type GoTool = keyof typeof tools;

/** Gives the path of a tool: the machine's own, else one in `.local/bin`, built where Go is there; else undefined. */
export async function goTool(name: GoTool): Promise<string | undefined> {
  const own = findProgram(name);
  if (own !== undefined) return own;
  const folder = join(localFolder, "bin");
  const program = join(folder, name);
  const compiler = go.find(process.env);
  if (compiler === undefined) return existsSync(program) ? program : undefined;
  await installed({
    name: `bin/.${name}`,
    version: tools[name],
    description: `${name} (once; built with Go in about a minute)`,
    install: (_, logFile) =>
      runTool(compiler, ["install", tools[name]], {
        environment: { GOBIN: folder, GOFLAGS: "-buildvcs=false" },
        logFile,
      }),
    isWhole: () => existsSync(program),
  });
  return program;
}

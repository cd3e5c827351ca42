import { cpSync, readFileSync } from "node:fs";
import { delimiter, join } from "node:path";

import { freePort } from "./ports.ts";
import { startServer, type Server, type ServerOptions } from "./server.ts";
import { installed, runTool } from "./tool.ts";
import { jdk, maven, need } from "./toolchains.ts";

const VERSION = "3.8.0.0";

/** Starts OpenSearch, one node, through the runner that `search/` holds. */
export async function startSearch(options: ServerOptions = {}): Promise<Server> {
  const { java, classPath } = await installSearch();
  const transportPort = await freePort();
  return startServer(
    {
      name: "search",
      command: ({ port, folder }) => ({
        file: java,
        arguments: [
          "-Xmx512m",
          "-XX:+UseSerialGC",
          // Short runs are quicker without the optimising compiler (5 s instead of 7 to start, on two processors).
          ...(options.folder === undefined ? ["-XX:TieredStopAtLevel=1"] : []),
          "-cp",
          classPath,
          "SearchServer",
          String(port),
          String(transportPort),
          join(folder, "search"),
        ],
      }),
      uri: (port) => `http://127.0.0.1:${port}`,
      isReady: answersYellow,
      readyWithinMs: 120_000,
    },
    options,
  );
}

/** Installs OpenSearch where it is not yet; gives what starts it. */
export async function installSearch(): Promise<{ java: string; classPath: string }> {
  const { jdk: home } = need({ jdk });
  const source = join(import.meta.dirname, "search");
  const folder = await installed({
    name: "search",
    version: `${VERSION}\n${readFileSync(join(source, "pom.xml"), "utf8")}\n${readFileSync(join(source, "SearchServer.java"), "utf8")}`,
    description: `OpenSearch ${VERSION} (once; 71 MB)`,
    install: async (target, logFile) => {
      const tools = need({ jdk, maven });
      cpSync(source, target, { recursive: true });
      const goals = ["package", "dependency:copy-dependencies", "-DoutputDirectory=lib"];
      const environment = { JAVA_HOME: tools.jdk };
      await runTool(tools.maven, ["-q", "-B", ...goals], { folder: target, environment, logFile });
    },
  });
  const classPath = [join(folder, "target", "classes"), join(folder, "lib", "*")].join(delimiter);
  return { java: join(home, "bin", "java"), classPath };
}

export async function answersYellow(uri: string): Promise<boolean> {
  const answer = await fetch(`${uri}/_cluster/health?wait_for_status=yellow&timeout=1s`, {
    signal: AbortSignal.timeout(3000),
  });
  await answer.body?.cancel();
  return answer.ok;
}

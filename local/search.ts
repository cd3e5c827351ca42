import { cpSync, readFileSync } from "node:fs";
import { delimiter, join } from "node:path";

import { freePort } from "./ports.ts";
import { startServer, type Recipe, type Server, type ServerOptions } from "./server.ts";
import { installed, runTool } from "./tool.ts";
import { jdk, maven, need } from "./toolchains.ts";

const VERSION = "3.8.0.0";
const ARCHIVE = "classes.jsa";

/** Starts OpenSearch, one node, through the runner that `search/` holds. */
export async function startSearch(options: ServerOptions = {}): Promise<Server> {
  const folder = await installSearch();
  const { jdk: home } = need({ jdk });
  return startServer(await recipe(home, folder, `-XX:SharedArchiveFile=${join(folder, ARCHIVE)}`), options);
}

/** Installs OpenSearch where it is not yet; gives its folder. */
export async function installSearch(): Promise<string> {
  const source = join(import.meta.dirname, "search");
  const sources = ["pom.xml", "SearchServer.java"].map((file) => readFileSync(join(source, file), "utf8"));
  return installed({
    name: "search",
    version: [VERSION, ARCHIVE, ...sources].join("\n"),
    description: `OpenSearch ${VERSION} (once; 71 MB)`,
    install: async (folder, logFile) => {
      const tools = need({ jdk, maven });
      cpSync(source, folder, { recursive: true });
      const goals = ["package", "dependency:copy-dependencies", "-DoutputDirectory=lib"];
      const environment = { JAVA_HOME: tools.jdk };
      await runTool(tools.maven, ["-q", "-B", ...goals], { folder, environment, logFile });
      await archiveClasses(tools.jdk, folder);
    },
  });
}

/**
 * Starts and stops the server once while Java keeps the classes that it loaded: every later start takes half the
 * processor time (4.6 s instead of 10.7 s). Java passes over an archive that does not fit.
 */
async function archiveClasses(home: string, folder: string): Promise<void> {
  await using server = await startServer(
    await recipe(home, folder, `-XX:ArchiveClassesAtExit=${join(folder, ARCHIVE)}`),
  );
  await server.stop();
}

async function recipe(home: string, installation: string, archive: string): Promise<Recipe> {
  const classPath = [join(installation, "target", "search-server-1.jar"), join(installation, "lib", "*")].join(
    delimiter,
  );
  // The compiler that optimises costs more at the start than it gives back to a small store.
  const java = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", archive, "-cp", classPath];
  const transportPort = await freePort();
  return {
    name: "search",
    command: ({ port, folder }) => ({
      file: join(home, "bin", "java"),
      arguments: [...java, "SearchServer", String(port), String(transportPort), join(folder, "search")],
    }),
    uri: (port) => `http://127.0.0.1:${port}`,
    isReady: answersYellow,
    readyWithinMs: 240_000,
    stopWithinMs: 60_000,
  };
}

/** Says whether an Elasticsearch or OpenSearch has all its primary shards. */
export async function answersYellow(uri: string): Promise<boolean> {
  const answer = await fetch(`${uri}/_cluster/health?wait_for_status=yellow&timeout=1s`, {
    signal: AbortSignal.timeout(3000),
  });
  await answer.body?.cancel();
  return answer.ok;
}

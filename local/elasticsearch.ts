import { chmodSync, chownSync, cpSync, globSync, mkdirSync, statSync } from "node:fs";
import { dirname, join } from "node:path";

import { freePort } from "./ports.ts";
import { Complaint } from "./project.ts";
import { answersYellow } from "./search.ts";
import { startServer, type Server, type ServerOptions } from "./server.ts";
import { installed, runTool } from "./tool.ts";
import { jdk, maven, need } from "./toolchains.ts";

const VERSION = "8.19.8";
const ARTIFACT = `org.elasticsearch.distribution.integ-test-zip:elasticsearch:${VERSION}:zip`;
const COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy";

/** Elasticsearch refuses to run as root: there it runs as the user `nobody`. */
const NOBODY = { uid: 65_534, gid: 65_534 };
const isRoot = process.getuid?.() === 0;

/** Starts Elasticsearch itself, its core modules only: the second family that search and backups are tested with. */
export async function startElasticsearch(options: ServerOptions = {}): Promise<Server> {
  const installation = await installElasticsearch();
  const { jdk: home } = need({ jdk });
  const transportPort = await freePort();
  return startServer(
    {
      name: "elasticsearch",
      command: ({ port, folder }) => {
        const data = join(folder, "elasticsearch");
        const configuration = join(folder, "configuration");
        mkdirSync(data, { recursive: true });
        cpSync(join(installation, "config"), configuration, { recursive: true });
        // It writes a key store beside its configuration, so that has to be its own too.
        if (isRoot) for (const path of [folder, ...ownFiles(folder)]) chownSync(path, NOBODY.uid, NOBODY.gid);
        const settings = {
          "http.port": port,
          "transport.port": transportPort,
          "network.host": "127.0.0.1",
          "discovery.type": "single-node",
          "xpack.security.enabled": false,
          "cluster.routing.allocation.disk.threshold_enabled": false,
          "path.data": join(data, "data"),
          "path.logs": join(data, "logs"),
          "path.repo": join(data, "repository"),
        };
        return {
          file: join(installation, "bin", "elasticsearch"),
          arguments: Object.entries(settings).map(([name, value]) => `-E${name}=${value}`),
          environment: {
            ES_JAVA_HOME: home,
            ES_PATH_CONF: configuration,
            // As for OpenSearch: the start takes 9 s of processor time instead of 14.
            ES_JAVA_OPTS: "-Xms512m -Xmx512m -XX:-UseG1GC -XX:+UseSerialGC -XX:TieredStopAtLevel=1",
            HOME: folder,
          },
          ...(isRoot && { user: NOBODY }),
        };
      },
      uri: (port) => `http://127.0.0.1:${port}`,
      isReady: answersYellow,
      readyWithinMs: 300_000,
      stopWithinMs: 60_000,
    },
    options,
  );
}

/** Installs Elasticsearch where it is not yet; gives its folder. Complains where it cannot be had or would not run. */
export async function installElasticsearch(): Promise<string> {
  const folder = await installed({
    name: "elasticsearch",
    version: VERSION,
    description: `Elasticsearch ${VERSION} (once; 94 MB)`,
    install: async (target, logFile) => {
      const tools = need({ jdk, maven });
      const environment = { JAVA_HOME: tools.jdk };
      const copy = ["-q", "-B", COPY, `-Dartifact=${ARTIFACT}`, `-DoutputDirectory=${target}`];
      await runTool(tools.maven, copy, { folder: target, environment, logFile });
      const [archive = ""] = globSync("*.zip", { cwd: target });
      // The JDK unpacks zip files on every machine, though it forgets which files are programs.
      await runTool(join(tools.jdk, "bin", "jar"), ["xf", archive], { folder: target, logFile });
      for (const program of globSync("elasticsearch-*/bin/*", { cwd: target })) chmodSync(join(target, program), 0o755);
    },
  });
  const installation = join(folder, `elasticsearch-${VERSION}`);
  if (isRoot) assertReachable(installation);
  return installation;
}

function ownFiles(folder: string): readonly string[] {
  return globSync("{elasticsearch,configuration}{,/**}", { cwd: folder }).map((path) => join(folder, path));
}

function assertReachable(installation: string): void {
  for (let folder = installation; folder !== dirname(folder); folder = dirname(folder)) {
    const isOpen = (statSync(folder).mode & 0o001) !== 0;
    if (isOpen) continue;
    throw new Complaint(
      `Elasticsearch does not run as root, and the user nobody may not enter ${folder}: run this as another user, or keep the project elsewhere.`,
    );
  }
}

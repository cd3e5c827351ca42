import { globSync, readFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";

/**
 * Room of `src/` → what it may import besides itself, packages and `gen/`. Downward only: app → server and the rooms that
 * hold handlers → jobs → stores, schema. A file that lies in `src/` itself is a room of its own.
 */
const allowed: Readonly<Record<string, readonly string[]>> = {
  main: ["app", "config", "errors", "log"],
  app: ["admin", "backup", "config", "errors", "jobs", "repository", "schema", "search", "server", "stores"],
  // A client of the contracts, as anybody else; what it checks by itself, it checks as the service does.
  cli: ["proofs"],
  server: ["config", "errors", "schema"],
  admin: ["config", "errors", "jobs", "schema", "stores"],
  backup: ["config", "errors", "jobs", "schema", "stores"],
  repository: ["config", "errors", "jobs", "proofs", "schema", "stores"],
  search: ["config", "errors", "jobs", "schema", "stores"],
  jobs: ["config", "errors", "schema", "stores"],
  stores: ["config", "errors"],
  schema: ["config", "errors"],
  proofs: [],
  log: ["config"],
  errors: [],
  config: [],
};

/** Names every import that goes sideways or upward. */
export function checkLayers(folder: string): readonly string[] {
  const source = join(folder, "src");
  const wrong: string[] = [];
  for (const file of globSync("**/*.ts", { cwd: source })) {
    const room = roomOf(file);
    const rooms = allowed[room];
    if (rooms === undefined) {
      wrong.push(`src/${file}: the room ${room} is not in the table of local/layers.ts`);
      continue;
    }
    for (const imported of importsOf(readFileSync(join(source, file), "utf8"))) {
      const target = relative(source, join(source, dirname(file), imported));
      const isGenerated = target.startsWith(join("..", "gen"));
      const isOutside = target.startsWith("..") && !isGenerated;
      const isAllowed = isGenerated || (!isOutside && [room, ...rooms].includes(roomOf(target)));
      if (!isAllowed) wrong.push(`src/${file}: ${room} may not import ${imported}`);
    }
  }
  return wrong;
}

function roomOf(file: string): string {
  return (file.split(sep)[0] ?? "").replace(/\.ts$/, "");
}

/** Relative imports only; the formatter keeps every import's module on the line that ends it. */
function importsOf(text: string): readonly string[] {
  const statement = /^(?:import|export|\})[^;"]*?\bfrom "(\.[^"]+)";|\bimport\("(\.[^"]+)"\)|^import "(\.[^"]+)";/gm;
  return [...text.matchAll(statement)].flatMap(([, from, dynamic, bare]) => from ?? dynamic ?? bare ?? []);
}

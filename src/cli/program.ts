import { readFileSync } from "node:fs";

import { Command, CommanderError, Option } from "commander";

import { allCommands, pathOf } from "./command-tree.ts";
import { exitCodes } from "./exit-codes.ts";
import { Failure, jsonLine, tell } from "./failure.ts";
import type { GlobalOptions, Session } from "./session.ts";
import { safe } from "./text.ts";
import { readSpan } from "./units.ts";

/** A group of commands. Its file is read only where it is called for: that is what makes `lucid` start quickly. */
interface Group {
  readonly name: string;
  readonly summary: string;
  readonly load: () => Promise<{ define(command: Command, session: Session): void }>;
}

/** What `lucid` can do, in the order of its help. */
const groups: readonly Group[] = [
  {
    name: "status",
    summary: "Show on one screen how the stores, search, backups and volumes are doing",
    load: () => import("./commands/status.ts"),
  },
  {
    name: "backup",
    summary: "Take, watch, verify, restore and delete backups",
    load: () => import("./commands/backup.ts"),
  },
  {
    name: "restore",
    summary: "Show, watch and cancel restores, which `lucid backup restore` begins",
    load: () => import("./commands/restore.ts"),
  },
  {
    name: "search",
    summary: "Search what is stored, count, suggest and export it",
    load: () => import("./commands/search.ts"),
  },
  {
    name: "index",
    summary: "Look after search indices: fields, rebuilds, how they follow MongoDB, comparisons",
    load: () => import("./commands/search-index.ts"),
  },
  {
    name: "collection",
    summary: "Look after collections of MongoDB and their indexes",
    load: () => import("./commands/collection.ts"),
  },
  {
    name: "shard",
    summary: "Look after the shards of MongoDB; not tried on a real cluster yet",
    load: () => import("./commands/shard.ts"),
  },
  {
    name: "cache",
    summary: "Look at what is in Redis, set, delete and flush it; copies of sessions, rate limits, locks, messages",
    load: () => import("./commands/cache.ts"),
  },
  {
    name: "volume",
    summary: "Look after volumes: sizes, growth, health, care",
    load: () => import("./commands/volume.ts"),
  },
  {
    name: "watch",
    summary: "Show users, sessions, blocks or transactions as they change",
    load: () => import("./commands/watch.ts"),
  },
  {
    name: "audit",
    summary: "Show who changed what, and prove that the log is whole",
    load: () => import("./commands/audit.ts"),
  },
  {
    name: "proof",
    summary: "Prove, without trusting the service, what manifests and the audit log hold",
    load: () => import("./commands/proof.ts"),
  },
  { name: "call", summary: "Make any call of the contracts", load: () => import("./commands/call.ts") },
  {
    name: "completion",
    summary: "Print what makes a shell complete commands of lucid",
    load: () => import("./commands/completion.ts"),
  },
];

/** Builds the commands: of the groups that `argv` names, or all of them, with their own; of the others only the names. */
export async function buildProgram(session: Session, wanted: readonly string[] | "all"): Promise<Command> {
  const { environment } = session.terminal;
  // What is wrong with a command line is told before its options are known.
  const asJson = wanted !== "all" && wanted.includes("--json");
  const program = new Command("lucid")
    .version(versionOf(), "--version", "print the version")
    .description("The command line of Lucid Data: looks after the stores, their backups and their search indices.")
    .addOption(
      new Option("--address <address>", "where the service listens for gRPC: HOST:PORT, or https://HOST:PORT")
        .env("LUCID_ADDRESS")
        .default("localhost:50051"),
    )
    .addOption(
      new Option(
        "--timeout <time>",
        "longest time for an answer, for example 5s or 2m; 0 means no limit, and watches have none",
      )
        .argParser(readSpan)
        .default(30_000, "30s"),
    )
    .option("--json", "print one JSON object a line, and errors as JSON to stderr")
    .option("--no-color", "use no colours; they are used only on a terminal, and not where NO_COLOR is set")
    .option("-y, --yes", "confirm what cannot be undone, instead of being asked")
    .configureHelp({ showGlobalOptions: true, subcommandTerm })
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void session.terminal.stdout.write(text),
      writeErr: (text) => void session.terminal.stderr.write(text),
      outputError: (text, write) => write(asJson ? usageJson(text) : usageText(text)),
      getOutHelpWidth: () => Math.min(session.terminal.stdout.columns ?? 100, 120),
      getErrHelpWidth: () => Math.min(session.terminal.stderr.columns ?? 100, 120),
    })
    .addHelpText("after", () => `\nExit codes:\n${exitCodeLines().join("\n")}\n\nStart with: lucid status`);
  program.hook("preAction", (_, action) => session.configure(action.optsWithGlobals<GlobalOptions>()));
  // An empty setting is none.
  if (environment["LUCID_ADDRESS"] === "") program.setOptionValue("address", "localhost:50051");
  const named = wanted === "all" ? groups.map(({ name }) => name) : program.parseOptions([...wanted]).operands;
  const isWanted = (name: string) =>
    named[0] === name || (named[0] === "help" && named[1] === name) || wanted === "all";
  for (const { name, summary, load } of groups) {
    const command = program.command(name).description(summary);
    if (isWanted(name)) (await load()).define(command, session);
  }
  for (const command of allCommands(program)) {
    if (!asJson) command.showHelpAfterError(`\`${pathOf(command)} --help\` shows how it is used.`);
  }
  return program;
}

/** Whether a command line was only wrong, or only asked for help: the parser has said so already. */
export function isTold(error: unknown): error is CommanderError {
  return error instanceof CommanderError;
}

/** What the parser says, as everything else that goes wrong is said. */
function usageText(text: string): string {
  return `${text
    .trimEnd()
    .split("\n")
    .map((line) => safe(line.replace(/^error: (.)/, (_, first: string) => `lucid: ${first.toUpperCase()}`)))
    .join("\n")}\n`;
}

function usageJson(text: string): string {
  return jsonLine(tell(new Failure("usage", text.trim().replace(/^error: /, "")), ""));
}

function versionOf(): string {
  const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
    version: string;
  };
  return version;
}

function subcommandTerm(command: Command): string {
  const [first] = command.registeredArguments;
  const rest = command.registeredArguments.map((argument) =>
    argument.required ? `<${argument.name()}>` : `[${argument.name()}]`,
  );
  return first === undefined ? command.name() : `${command.name()} ${rest.join(" ")}`;
}

function exitCodeLines(): readonly string[] {
  return Object.values(exitCodes).map(({ code, meaning }) => `  ${String(code).padStart(3)}  ${meaning}`);
}

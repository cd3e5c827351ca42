// Makes docs/cli.md from the commands of lucid. With `--check` it only says whether the file is fresh.
import { readFileSync, writeFileSync } from "node:fs";
import process from "node:process";

import type { Command } from "commander";

import { allCommands, pathOf } from "../src/cli/command-tree.ts";
import { examplesOf } from "../src/cli/examples.ts";
import { exitCodes } from "../src/cli/exit-codes.ts";
import { buildProgram } from "../src/cli/program.ts";
import { openSession } from "../src/cli/session.ts";

const file = new URL("cli.md", import.meta.url);
const { stdin, stdout, stderr } = process;
const session = openSession({ stdin, stdout, stderr, environment: {} }, new AbortController().signal);
const program = await buildProgram(session, "all");

const cell = (text: string) => text.replaceAll("|", "\\|");

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  if (rows.length === 0) return "";
  const lines = [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.map(cell).join(" | ")} |`);
  return `\n${lines.join("\n")}\n`;
}

function optionTable(command: Command): string {
  const rows = command.options.map(({ flags, description, argChoices, defaultValue, defaultValueDescription, envVar }) => {
    const choices = argChoices === undefined ? "" : `: ${argChoices.map((choice) => `\`${choice}\``).join(", ")}`;
    const fallback = defaultValueDescription ?? (typeof defaultValue === "boolean" ? undefined : defaultValue);
    return [`\`${flags}\``, `${description}${choices}`, fallback === undefined ? "" : `\`${fallback}\``, envVar === undefined ? "" : `\`${envVar}\``];
  });
  const hasSettings = rows.some(([, , , setting]) => setting !== "");
  return table(["option", "meaning", "default", ...(hasSettings ? ["setting"] : [])], hasSettings ? rows : rows.map((row) => row.slice(0, 3)));
}

function section(command: Command): string {
  const usage = [pathOf(command), ...command.registeredArguments.map((argument) => {
    const name = `${argument.name()}${argument.variadic ? "..." : ""}`;
    return argument.required ? `<${name}>` : `[${name}]`;
  })].join(" ");
  const rows = command.registeredArguments.map((argument) => {
    const choices = argument.argChoices === undefined ? "" : `: ${argument.argChoices.map((choice) => `\`${choice}\``).join(", ")}`;
    return [`\`${argument.name()}\``, `${argument.description}${choices}`];
  });
  const examples = examplesOf(command);
  const shown = examples.length === 0 ? "" : `\n\`\`\`\n${examples.join("\n")}\n\`\`\`\n`;
  return `### \`${usage}\`\n\n${command.description()}.\n${table(["argument", "meaning"], rows)}${optionTable(command)}${shown}`;
}

const groups = program.commands.map((group) => {
  const commands = allCommands(group).filter(({ commands: below }) => below.length === 0);
  return `## lucid ${group.name()}\n\n${commands.map(section).join("\n")}`;
});
const codes = Object.values(exitCodes).map(({ code, meaning }) => [String(code), meaning]);
const text = `# The command line

\`lucid\` is a client of the service's contracts: whatever it does can be done with grpcurl too. From a clone it is \`npx lucid\`,
and in the image \`node src/cli/lucid.mjs\`. \`npm link\` in the clone makes it \`lucid\` in any folder, and so does
\`npm install --global\` of what \`npm pack\` makes of it: the command line and its contracts, without the stores. Node does not run
TypeScript below \`node_modules\` by itself; there \`lucid\` takes the types out as it starts. Results go to stdout, remarks and errors to
stderr.

- **People** get tables. Text from the stores is shown with what would move the cursor escaped.
- **Scripts** take \`--json\`: one object a line, in the JSON form of the contracts, with zeros and empty lists written out. An error is one
  object on stderr, with \`code\`, \`reason\`, \`metadata\` and \`fields\` as the service gave them.
- **What destroys** asks for the name of what it destroys. Where nobody can be asked it does nothing without \`--yes\`.
- **Watches** go on by themselves where they were, at whichever replica answers, when the connection or the service goes away. On a
  terminal they are drawn in place; elsewhere each event is a line.

Completion for bash, zsh and fish: \`lucid completion --help\`.

## Exit codes
${table(["code", "meaning"], codes)}
## Options of all commands
${optionTable(program)}
${groups.join("\n")}
This page is made from the commands of \`src/cli\` by \`npm run generate\`.
`;

if (process.argv.includes("--check")) {
  if (readFileSync(file, "utf8") !== text) {
    process.exitCode = 1;
    console.error("docs/cli.md is stale; run npm run generate");
  }
} else {
  writeFileSync(file, text);
}

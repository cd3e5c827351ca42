import type { Command } from "commander";

/** Examples of each command, for its help and its documentation. */
const examples = new WeakMap<Command, readonly string[]>();

/** Gives a command examples: command lines, each perhaps with a remark after `#`. */
export function withExamples(command: Command, ...lines: readonly string[]): Command {
  examples.set(command, lines);
  return command.addHelpText("after", `\nExamples:\n${lines.map((line) => `  ${line}`).join("\n")}`);
}

export function examplesOf(command: Command): readonly string[] {
  return examples.get(command) ?? [];
}

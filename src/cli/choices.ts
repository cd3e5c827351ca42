import type { DescEnum } from "@bufbuild/protobuf";
import { InvalidArgumentError, Option } from "commander";

/** The names by which values of an enum are given on the command line: `pending-verification`. */
export function choicesOf(desc: DescEnum): ReadonlyMap<string, number> {
  const named = desc.values.filter(({ number }) => number !== 0);
  return new Map(named.map(({ localName, number }) => [localName.toLowerCase().replaceAll("_", "-"), number]));
}

/** An option whose value is one of an enum. */
export function enumOption(flags: string, description: string, desc: DescEnum): Option {
  const choices = choicesOf(desc);
  return new Option(flags, description).choices([...choices.keys()]).argParser((text) => valueOf(choices, text));
}

/** The same for an option that may be given many times. */
export function enumsOption(flags: string, description: string, desc: DescEnum): Option {
  const choices = choicesOf(desc);
  return new Option(flags, `${description}; may be given many times`)
    .choices([...choices.keys()])
    .argParser((text, all: readonly number[] | undefined) => [...(all ?? []), valueOf(choices, text)]);
}

function valueOf(choices: ReadonlyMap<string, number>, text: string): number {
  const value = choices.get(text);
  if (value === undefined) throw new InvalidArgumentError(`It is one of ${[...choices.keys()].join(", ")}.`);
  return value;
}

import { Argument, type Command } from "commander";

import { allCommands, pathOf } from "../command-tree.ts";
import { withExamples } from "../examples.ts";
import type { Session } from "../session.ts";

/** What may be typed at one place of the command tree. */
interface Place {
  /** The commands that lead there, with a space between them. */
  readonly path: string;
  /** Subcommands and options, with what they do. */
  readonly words: readonly { readonly word: string; readonly help: string }[];
  /** What an option, or the argument, takes. */
  readonly values: readonly { readonly of: string; readonly choices: readonly string[] }[];
  /** Options that take a value, whatever it is. */
  readonly valued: readonly string[];
}

const scripts: Readonly<Record<string, (places: readonly Place[]) => string>> = {
  bash: bashScript,
  zsh: zshScript,
  fish: fishScript,
};

/** `lucid completion`. */
export function define(command: Command, session: Session): void {
  withExamples(
    command
      .addArgument(new Argument("<shell>", "the shell").choices(Object.keys(scripts)))
      .action(async (shell: string) => {
        // Only here, where all commands are wanted and not only this one.
        const { buildProgram } = await import("../program.ts");
        const places = placesOf(await buildProgram(session, "all"));
        await session.output.line(scripts[shell]?.(places));
      }),
    "source <(lucid completion bash)   # in ~/.bashrc",
    'lucid completion zsh > "${fpath[1]}/_lucid"',
    "lucid completion fish > ~/.config/fish/completions/lucid.fish",
  );
}

function placesOf(program: Command): readonly Place[] {
  return allCommands(program).map((command) => {
    const options = [...command.options, ...(command === program ? [] : program.options)];
    const visible = options.filter(({ hidden }) => !hidden);
    return {
      path: pathOf(command).split(" ").slice(1).join(" "),
      words: [
        ...command.commands.map((child) => ({ word: child.name(), help: child.description() })),
        ...visible.map(({ long, description }) => ({ word: long ?? "", help: description })),
        { word: "--help", help: "show help" },
      ],
      values: [
        ...visible.flatMap(({ long, argChoices }) =>
          long === undefined || argChoices === undefined ? [] : [{ of: long, choices: argChoices }],
        ),
        ...command.registeredArguments.flatMap(({ argChoices }) =>
          argChoices === undefined ? [] : [{ of: "", choices: argChoices }],
        ),
      ],
      valued: visible.flatMap(({ long, short, required }) => (required ? [long ?? "", ...(short ? [short] : [])] : [])),
    };
  });
}

/** Text within single quotes of a POSIX shell. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** Finds out where in the tree the cursor is: the same in bash and zsh. */
function walk(places: readonly Place[]): string {
  const valued = [...new Set(places.flatMap((place) => place.valued))];
  const paths = places.map(({ path }) => path).filter((path) => path !== "");
  return `  for word in "\${before[@]}"; do
    if [[ -n $skip ]]; then skip=; continue; fi
    case $word in
      ${valued.join("|")}) skip=1; continue ;;
    esac
    case "\${path:+$path }$word" in
      ${paths.map(quoted).join("|")}) path="\${path:+$path }$word" ;;
    esac
  done`;
}

function bashScript(places: readonly Place[]): string {
  const values = places.flatMap((place) =>
    place.values.map(
      ({ of, choices }) => `    ${quoted(`${place.path}:${of}`)}) words=${quoted(choices.join(" "))} ;;`,
    ),
  );
  const words = places.map(
    (place) => `    ${quoted(place.path)}) words+=" "${quoted(place.words.map(({ word }) => word).join(" "))} ;;`,
  );
  const valued = [...new Set(places.flatMap((place) => place.valued))];
  return `# Completion of lucid for bash.
_lucid() {
  local word path= skip= words=
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD-1]}
  local before=("\${COMP_WORDS[@]:1:COMP_CWORD-1}")
${walk(places)}
  case "$path:\${previous}" in
${values.filter((line) => !line.includes(":')")).join("\n")}
  esac
  if [[ -z $words ]]; then
    case $previous in
      ${valued.join("|")}) return ;;
    esac
    case "$path:" in
${values.filter((line) => line.includes(":')")).join("\n")}
    esac
    case "$path" in
${words.join("\n")}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _lucid lucid`;
}

function zshScript(places: readonly Place[]): string {
  const described = (place: Place) =>
    place.words.map(({ word, help }) => `      ${quoted(`${word.replaceAll(":", "\\:")}:${help}`)}`).join("\n");
  const values = places.flatMap((place) =>
    place.values.map(
      ({ of, choices }) => `    ${quoted(`${place.path}:${of}`)}) compadd -- ${choices.join(" ")}; return ;;`,
    ),
  );
  const valued = [...new Set(places.flatMap((place) => place.valued))];
  return `#compdef lucid
# Completion of lucid for zsh.
_lucid() {
  local word path= skip= previous=\${words[CURRENT-1]}
  local -a before described
  before=("\${(@)words[2,CURRENT-1]}")
${walk(places).replaceAll("$path", "$place").replaceAll("${path", "${place").replaceAll("path=", "place=")}
  case "$place:$previous" in
${values.filter((line) => !line.includes(":')")).join("\n")}
    *)
      case $previous in
        ${valued.join("|")}) _files; return ;;
      esac ;;
  esac
  case "$place:" in
${values.filter((line) => line.includes(":')")).join("\n")}
  esac
  case "$place" in
${places.map((place) => `    ${quoted(place.path)}) described=(\n${described(place)}\n    ) ;;`).join("\n")}
  esac
  _describe command described
}
# Loaded from $fpath, this file is what answers the first time.
if [[ $funcstack[1] == _lucid ]]; then _lucid; else compdef _lucid lucid; fi`.replace(
    "local word path= skip=",
    "local word place= skip=",
  );
}

function fishScript(places: readonly Place[]): string {
  const valued = [...new Set(places.flatMap((place) => place.valued))];
  const paths = places.map(({ path }) => path).filter((path) => path !== "");
  const fishQuoted = (text: string) => `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
  const lines = places.flatMap((place) => {
    const at = `complete -c lucid -f -n ${fishQuoted(`__lucid_at "${place.path}"`)}`;
    const values = new Map(place.values.map(({ of, choices }) => [of, choices.join(" ")]));
    const given = values.get("");
    return [
      ...place.words.map(({ word, help }) => {
        if (!word.startsWith("--")) return `${at} -a ${word} -d ${fishQuoted(help)}`;
        const choices = values.get(word);
        const value =
          choices !== undefined ? ` -x -a ${fishQuoted(choices)}` : place.valued.includes(word) ? " -x" : "";
        return `${at} -l ${word.slice(2)}${value} -d ${fishQuoted(help)}`;
      }),
      ...(given === undefined ? [] : [`${at} -a ${fishQuoted(given)}`]),
    ];
  });
  return `# Completion of lucid for fish.
function __lucid_at
    set -l place ''
    set -l skip ''
    for word in (commandline -opc)[2..-1]
        if test -n "$skip"
            set skip ''
            continue
        end
        switch $word
            case ${valued.map(fishQuoted).join(" ")}
                set skip 1
                continue
        end
        set -l longer (string trim "$place $word")
        switch $longer
            case ${paths.map(fishQuoted).join(" ")}
                set place $longer
        end
    end
    test "$place" = "$argv[1]"
end
${lines.join("\n")}`;
}

import { execFileSync } from "node:child_process";
import { accessSync, constants, existsSync, readdirSync, readFileSync, realpathSync, statSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";

import { Complaint } from "./project.ts";

/** A tool of the machine that the local stores need. */
export interface Toolchain {
  /** Gives where it is; undefined where it is missing or too old. */
  readonly find: (environment: NodeJS.ProcessEnv) => string | undefined;
  /** One sentence that names it and the way to get it. */
  readonly missing: string;
}

export const python: Toolchain = {
  find: findPython,
  missing:
    "Python 3.11 or newer with its venv module is missing: install python3 and python3-venv with the system's package manager (macOS: brew install python), or set LUCID_MONGODB_URI to a MongoDB of yours.",
};

export const jdk: Toolchain = {
  find: findJdk,
  missing:
    "A Java development kit, version 21 or newer, is missing: install one (for example Temurin 25, or openjdk-21-jdk-headless; macOS: brew install openjdk) and set JAVA_HOME to it where it is not found, or set LUCID_SEARCH_URI to an Elasticsearch or OpenSearch of yours.",
};

export const maven: Toolchain = {
  find: (environment) => findProgram("mvn", environment),
  missing:
    "Apache Maven is missing: install maven with the system's package manager (macOS: brew install maven), or set LUCID_SEARCH_URI to an Elasticsearch or OpenSearch of yours.",
};

export const go: Toolchain = {
  find: (environment) => findProgram("go", environment),
  missing: "Go is missing: install golang with the system's package manager (macOS: brew install go).",
};

/** Finds all of these tools, or complains about every missing one at once. */
export function need<Name extends string>(
  tools: Readonly<Record<Name, Toolchain>>,
  environment: NodeJS.ProcessEnv = process.env,
): Record<Name, string> {
  const found: Partial<Record<Name, string>> = {};
  const missing: string[] = [];
  for (const [name, tool] of Object.entries<Toolchain>(tools)) {
    const place = tool.find(environment);
    // The keys of `tools` are its names.
    if (place !== undefined) found[name as Name] = place;
    else missing.push(tool.missing);
  }
  if (missing.length > 0) throw new Complaint(missing.join("\n"));
  return found as Record<Name, string>; // none is missing
}

/** Finds a program on PATH. */
export function findProgram(name: string, environment: NodeJS.ProcessEnv = process.env): string | undefined {
  return (environment["PATH"] ?? "")
    .split(delimiter)
    .filter((folder) => folder !== "")
    .map((folder) => join(folder, name))
    .find(isProgram);
}

function findPython(environment: NodeJS.ProcessEnv): string | undefined {
  const names = ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python"];
  const check = "import sys, venv, ensurepip; sys.exit(0 if sys.version_info >= (3, 11) else 1)";
  return names
    .map((name) => findProgram(name, environment))
    .find((place) => place !== undefined && run(place, ["-c", check]) !== undefined);
}

/** Finds the newest JDK of the machine: `java` on PATH is often an older one. */
function findJdk(environment: NodeJS.ProcessEnv): string | undefined {
  const home = environment["HOME"] ?? "";
  const onPath = findProgram("javac", environment);
  const places = [
    environment["JAVA_HOME"],
    onPath === undefined ? undefined : dirname(dirname(realpathSync(onPath))),
    ...foldersIn("/usr/lib/jvm"),
    ...foldersIn("/opt").filter((folder) => /j(dk|ava)/i.test(folder)),
    ...foldersIn(join(home, ".sdkman/candidates/java")),
    ...foldersIn("/Library/Java/JavaVirtualMachines").map((folder) => join(folder, "Contents/Home")),
    process.platform === "darwin" ? run("/usr/libexec/java_home", ["-v", "21+"])?.trim() : undefined,
    "/opt/homebrew/opt/openjdk",
    "/usr/local/opt/openjdk",
  ].filter((place) => place !== undefined && isProgram(join(place, "bin", "javac")));
  const versions = new Map(places.map((place) => [place, jdkVersion(String(place))]));
  const [newest] = [...versions].filter(([, version]) => version >= 21).toSorted((a, b) => b[1] - a[1]);
  return newest?.[0];
}

function jdkVersion(place: string): number {
  const release = join(place, "release");
  const text = existsSync(release)
    ? readFileSync(release, "utf8")
    : (run(join(place, "bin", "javac"), ["-version"]) ?? "");
  return Number(/(?:JAVA_VERSION="|javac )(\d+)/.exec(text)?.[1] ?? 0);
}

function foldersIn(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : [];
}

function isProgram(place: string): boolean {
  try {
    accessSync(place, constants.X_OK);
    return statSync(place).isFile();
  } catch {
    return false;
  }
}

function run(file: string, args: readonly string[]): string | undefined {
  try {
    return execFileSync(file, args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"], timeout: 20_000 });
  } catch {
    return undefined;
  }
}

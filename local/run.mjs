// Runs one of the project's commands. Plain JavaScript for Node 20 and newer, without dependencies: it installs the
// dependencies where they are missing, then hands over to the Node 24 that comes with them.
import { spawn } from "node:child_process";
import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";

const LEAST_NODE = [24, 21];
const projectFolder = join(import.meta.dirname ?? dirname(new URL(import.meta.url).pathname), "..");

/** Command → the program that does it, and whether TypeScript of ours or a tool of the dependencies. */
const commands = {
  start: ["local/start.ts"],
  test: ["local/test.ts"],
  seed: ["local/seed.ts"],
  bench: ["bench/run.ts"],
  check: ["local/checks.ts"],
  format: ["local/format.ts"],
  generate: ["local/generate.ts"],
  conformance: ["test/conformance/run.ts"],
};

process.exitCode = await main(process.argv.slice(2));

async function main([name, ...rest]) {
  const command = Object.hasOwn(commands, name ?? "") ? commands[name] : undefined;
  if (command === undefined) {
    complain(`Usage: node local/run.mjs ${Object.keys(commands).join(" | ")} [options]`);
    return 2;
  }
  if (!areDependenciesThere()) {
    complain("Installing the dependencies (npm ci) …");
    // Scripts of packages are not needed, so none runs; that an older Node is no matter, npm need not say.
    const code = await run(
      "npm",
      ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
      process.env,
    );
    if (code !== 0) return code;
  }
  const node = findNode();
  if (node === undefined) {
    const least = LEAST_NODE.join(".");
    complain(
      `Node ${least} or newer is missing: no package carries it for ${process.platform} ${process.arch}, and this is ${process.version}; install it from https://nodejs.org.`,
    );
    return 1;
  }
  if (!existsSync(join(projectFolder, command[0]))) {
    complain(`There is no ${command[0]} yet.`);
    return 1;
  }
  const path = [dirname(node), join(projectFolder, "node_modules", ".bin"), process.env.PATH].join(delimiter);
  return run(node, [...command, ...rest], { ...process.env, PATH: path });
}

/** Compares what is installed with the lock file by content: times of files change with every checkout. */
function areDependenciesThere() {
  const wanted = packagesOf("package-lock.json");
  const there = packagesOf("node_modules/.package-lock.json");
  if (there === undefined || wanted === undefined) return false;
  return Object.entries(wanted).every(([place, { version, optional }]) => {
    // The first entry is the project itself, and packages for other platforms are left out.
    if (place === "" || (optional && !(place in there))) return true;
    return there[place]?.version === version;
  });
}

function packagesOf(lockFile) {
  const file = join(projectFolder, lockFile);
  return existsSync(file) ? JSON.parse(readFileSync(file, "utf8")).packages : undefined;
}

/** The Node of the dependencies, so that everyone runs the same one; else this one where it is new enough. */
function findNode() {
  const carried = join(projectFolder, "node_modules", `node-${process.platform}-${process.arch}`, "bin", "node");
  try {
    accessSync(carried, constants.X_OK);
    return carried;
  } catch {
    const [major, minor] = process.versions.node.split(".").map(Number);
    const isNewEnough = major > LEAST_NODE[0] || (major === LEAST_NODE[0] && minor >= LEAST_NODE[1]);
    return isNewEnough ? process.execPath : undefined;
  }
}

/** Runs a program in the foreground; signals go to it, and its end is this program's end. */
function run(file, args, env) {
  return new Promise((resolve) => {
    const child = spawn(file, args, { cwd: projectFolder, env, stdio: "inherit" });
    // Ctrl-C reaches the child too, from the terminal; it takes signals that come twice for one.
    const signals = ["SIGINT", "SIGTERM", "SIGHUP"];
    const pass = (signal) => child.kill(signal);
    for (const signal of signals) process.on(signal, pass);
    const watch = watchParent(() => pass("SIGTERM"));
    const finish = (code) => {
      clearInterval(watch);
      for (const signal of signals) process.off(signal, pass);
      resolve(code);
    };
    child.once("error", (error) => {
      complain(`${file} cannot be run: ${error.message}`);
      finish(1);
    });
    child.once("exit", (code, signal) => {
      if (signal === null) return finish(code ?? 1);
      finish(128 + ({ SIGHUP: 1, SIGINT: 2, SIGKILL: 9, SIGTERM: 15 }[signal] ?? 0));
    });
  });
}

/** npm passes signals to a shell, which ends without passing them on: then the end of the shell is the signal. */
function watchParent(onEnd) {
  if (process.env.npm_lifecycle_event === undefined) return undefined;
  const parent = process.ppid;
  return setInterval(() => {
    if (process.ppid !== parent) onEnd();
  }, 500).unref();
}

function complain(line) {
  process.stderr.write(`${line}\n`);
}

#!/usr/bin/env node
// Starts the command line. Plain JavaScript for Node 20 and newer: the sources need Node 24, which comes with the
// dependencies where the machine has an older one.
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import module, { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const LEAST_NODE = [24, 21];
const program = new URL("main.ts", import.meta.url);
const { resolve } = createRequire(import.meta.url);

if (found("commander/package.json") === undefined) {
  complain("lucid: Its dependencies are not installed; run npm ci, or npm start, which does it too.");
} else if (isNewEnough()) {
  // The sources are compiled anew at each start without it.
  module.enableCompileCache?.();
  if (program.pathname.includes("/node_modules/")) stripTypes();
  await import(program);
} else {
  const carried = found(`node-${process.platform}-${process.arch}/bin/node`);
  if (carried !== undefined) handOver(carried);
  else complain(`lucid: It needs Node ${LEAST_NODE.join(".")} or newer, and this is ${process.version}.`);
}

/** Where a file of a package is: beside this one in a clone, beside this package where it is a dependency itself. */
function found(file) {
  const folders = resolve.paths(file) ?? [];
  return folders.map((folder) => `${folder}/${file}`).find((path) => existsSync(path));
}

function isNewEnough() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  return major > LEAST_NODE[0] || (major === LEAST_NODE[0] && minor >= LEAST_NODE[1]);
}

/** Takes the types out of this package's sources, which Node does not do by itself for what lies in node_modules. */
function stripTypes() {
  const sources = new URL("../..", import.meta.url).href;
  const emitWarning = process.emitWarning.bind(process);
  // It warns at its first use that it may change. If it does, another version of Node is needed, and nobody can act on it here.
  process.emitWarning = () => {};
  module.stripTypeScriptTypes("");
  process.emitWarning = emitWarning;
  module.registerHooks({
    load(url, context, next) {
      if (!url.startsWith(sources) || !url.endsWith(".ts")) return next(url, context);
      const source = module.stripTypeScriptTypes(readFileSync(new URL(url), "utf8"));
      return { format: "module", source, shortCircuit: true };
    },
  });
}

/** Runs the newer Node in the place of this one: it has the terminal, gets its signals, and its end is the end. */
function handOver(node) {
  const child = spawn(node, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio: "inherit" });
  // From a terminal Ctrl-C reaches both, and the newer one takes two at once for one.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
  child.once("error", (error) => complain(`lucid: ${node} cannot be run: ${error.message}`));
  child.once("exit", (code, signal) => {
    process.exitCode = signal === null ? code : 128 + ({ SIGHUP: 1, SIGINT: 2, SIGKILL: 9, SIGTERM: 15 }[signal] ?? 0);
  });
}

function complain(line) {
  process.stderr.write(`${line}\n`);
  process.exitCode = 1;
}

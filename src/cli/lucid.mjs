#!/usr/bin/env node
// Starts the command line. Plain JavaScript for Node 20 and newer: the sources need Node 24, which comes with the
// dependencies where the machine has an older one.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import module from "node:module";
import { fileURLToPath } from "node:url";

const LEAST_NODE = [24, 21];
const packageFolder = fileURLToPath(new URL("../..", import.meta.url));
const program = fileURLToPath(new URL("main.ts", import.meta.url));

if (!existsSync(`${packageFolder}/node_modules/commander`)) {
  complain("lucid: Its dependencies are not installed; run npm ci, or npm start, which does it too.");
} else if (isNewEnough()) {
  // The sources are compiled anew at each start without it.
  module.enableCompileCache?.();
  await import(program);
} else {
  const carried = `${packageFolder}/node_modules/node-${process.platform}-${process.arch}/bin/node`;
  if (existsSync(carried)) handOver(carried);
  else complain(`lucid: It needs Node ${LEAST_NODE.join(".")} or newer, and this is ${process.version}.`);
}

function isNewEnough() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  return major > LEAST_NODE[0] || (major === LEAST_NODE[0] && minor >= LEAST_NODE[1]);
}

/** Runs the newer Node in the place of this one: it has the terminal, gets its signals, and its end is the end. */
function handOver(node) {
  const child = spawn(node, [import.meta.filename ?? fileURLToPath(import.meta.url), ...process.argv.slice(2)], {
    stdio: "inherit",
  });
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

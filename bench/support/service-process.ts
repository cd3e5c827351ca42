import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";

import type { Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

import { projectFolder, say } from "../../local/project.ts";
import { serviceArguments, serviceEnvironment } from "../../local/service.ts";

/** The service in a process of its own, as it is run: its memory is measured from outside. */
export interface ServiceProcess extends AsyncDisposable {
  readonly pid: number | undefined;
  /** Host and port of gRPC. */
  readonly address: string;
  readonly transport: Transport;
  /** What of its memory is in RAM now, in bytes. */
  residentBytes(): number;
  /** The most that has been in RAM since `forgetPeak`, as the kernel counts it: no sample misses it. */
  peakBytes(): number;
  forgetPeak(): void;
}

/** A line of the service's log. */
interface Logged {
  readonly level: number;
  readonly grpc?: string;
}

const warning = 40; // among pino's levels

/** Starts the service and waits until it serves. */
export async function startService(environment: Readonly<Record<string, string>>): Promise<ServiceProcess> {
  const child = spawn(process.execPath, serviceArguments, {
    cwd: projectFolder,
    env: { ...process.env, ...serviceEnvironment, LUCID_GRPC_PORT: "0", LUCID_HTTP_PORT: "0", ...environment },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(child, "exit");
  try {
    const address = await Promise.race([
      servingAddress(child.stdout),
      ended.then(() => Promise.reject(new Error("The service ended at once"))),
    ]);
    const status = `/proc/${child.pid}/status`;
    return {
      pid: child.pid,
      address,
      transport: createGrpcTransport({ baseUrl: `http://${address}` }),
      residentBytes: () => bytesIn(status, "VmRSS"),
      peakBytes: () => bytesIn(status, "VmHWM"),
      forgetPeak: () => writeFileSync(`/proc/${child.pid}/clear_refs`, "5"),
      async [Symbol.asyncDispose]() {
        child.kill();
        await ended;
      },
    };
  } catch (error) {
    child.kill("SIGKILL");
    throw error;
  }
}

/** Where the service says that it serves. What it warns of is shown, then and later. */
async function servingAddress(output: Readable): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  createInterface({ input: output }).on("line", (line) => {
    const logged = JSON.parse(line) as Logged; // pino wrote it
    if (logged.grpc !== undefined) resolve(logged.grpc);
    if (logged.level >= warning) say(line);
  });
  return promise;
}

function bytesIn(file: string, field: string): number {
  const found = new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(readFileSync(file, "utf8"));
  return Number(found?.[1]) * 1024;
}

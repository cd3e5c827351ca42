import { readFileSync, writeFileSync } from "node:fs";

import type { Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

import { say } from "../../local/project.ts";
import { serviceArguments, serviceEnvironment } from "../../local/service.ts";
import { startChild } from "./child.ts";

/** The service in a process of its own, as it is run: its memory is measured from outside. */
export interface ServiceProcess extends AsyncDisposable {
  readonly pid: number;
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

/** Starts the service and waits until it serves. What it warns of is shown, then and later. */
export async function startService(environment: Readonly<Record<string, string>>): Promise<ServiceProcess> {
  const child = await startChild({
    name: "service",
    arguments: serviceArguments,
    environment: { ...serviceEnvironment, LUCID_GRPC_PORT: "0", LUCID_HTTP_PORT: "0", ...environment },
    read: (line) => {
      const logged = JSON.parse(line) as Logged; // pino wrote it
      if (logged.level >= warning) say(line);
      return logged.grpc;
    },
  });
  const status = `/proc/${child.pid}/status`;
  return {
    pid: child.pid,
    address: child.said,
    transport: createGrpcTransport({ baseUrl: `http://${child.said}` }),
    residentBytes: () => bytesIn(status, "VmRSS"),
    peakBytes: () => bytesIn(status, "VmHWM"),
    forgetPeak: () => writeFileSync(`/proc/${child.pid}/clear_refs`, "5"),
    [Symbol.asyncDispose]: () => child[Symbol.asyncDispose](),
  };
}

function bytesIn(file: string, field: string): number {
  const found = new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(readFileSync(file, "utf8"));
  return Number(found?.[1]) * 1024;
}

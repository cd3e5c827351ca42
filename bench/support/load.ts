import { readdirSync, readFileSync } from "node:fs";

import type * as grpc from "@grpc/grpc-js";

/** Time that the threads of a process have been running, in µs, to the nanosecond: `ps` counts in hundredths of a second. */
export function cpuMicros(pid: number | undefined): number {
  const threads = readdirSync(`/proc/${pid}/task`);
  const nanos = threads.map((thread) => readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "utf8").split(" ")[0]);
  return nanos.reduce((sum, ran) => sum + Number(ran), 0) / 1000;
}

/** One call, again and again. */
export interface Load {
  readonly client: grpc.Client;
  /** `/package.Service/Rpc`. */
  readonly path: string;
  /** The same for all calls, or made for each. */
  readonly request: Buffer | (() => Buffer);
  readonly calls: number;
  /** Calls that are under way at once: each is made as soon as another has ended. */
  readonly inFlight: number;
}

/** Makes the calls; returns how long each took, in ms. Messages are not decoded: the client shares the machine. */
export async function makeCalls(load: Load): Promise<number[]> {
  const took: number[] = [];
  let left = load.calls;
  const worker = async () => {
    while (left-- > 0) {
      const began = performance.now();
      await callBytes(load);
      took.push(performance.now() - began);
    }
  };
  await Promise.all(Array.from({ length: load.inFlight }, worker));
  return took;
}

/** Makes one call; returns the bytes of its response. */
export function callBytes({ client, path, request }: Pick<Load, "client" | "path" | "request">): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const asIs = (bytes: Buffer) => bytes;
    const bytes = typeof request === "function" ? request() : request;
    client.makeUnaryRequest(path, asIs, asIs, bytes, (error, response) => {
      if (error !== null || response === undefined) reject(error ?? new Error("There is no response"));
      else resolve(response);
    });
  });
}

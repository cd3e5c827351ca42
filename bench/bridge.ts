import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { create, toBinary } from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";

import { BackupService, GetBackupRequestSchema } from "../gen/lucid/admin/v1/backup_service_pb.ts";
import { projectFolder, runCommand } from "../local/project.ts";
import { median, printTable } from "./support/table.ts";
import { type WireKind, wireKinds } from "./support/wire-kinds.ts";

const rounds = 5;
const callsPerRound = 5000;
const inFlight = 64;

const path = `/${BackupService.typeName}/GetBackup`;
const request = Buffer.from(toBinary(GetBackupRequestSchema, create(GetBackupRequestSchema, { backupId: "a-backup" })));

/**
 * What a small unary call costs a server in CPU: the bridge alone and with its interceptors against @grpc/grpc-js with
 * protobuf-es and nothing between, and against connect-node's own gRPC. Each server is a process of its own; rounds are
 * interleaved, and ratios are of the same round.
 */
await runCommand(async () => {
  await using stack = new AsyncDisposableStack();
  const servers = new Map<WireKind, Awaited<ReturnType<typeof startServer>>>();
  for (const kind of wireKinds) servers.set(kind, stack.use(await startServer(kind)));
  const costs = new Map<WireKind, number[]>(wireKinds.map((kind) => [kind, []]));
  for (let round = 0; round <= rounds; round += 1) {
    for (const [kind, server] of servers) {
      const before = server.cpuMicros();
      await calls(server.client);
      // The first round warms the servers up.
      if (round > 0) costs.get(kind)?.push((server.cpuMicros() - before) / callsPerRound);
    }
  }
  const ratio = (kind: WireKind, peer: WireKind) =>
    median((costs.get(kind) ?? []).map((cost, round) => cost / (costs.get(peer)?.[round] ?? Number.NaN)));
  printTable(`Server CPU of a small unary call, ${inFlight} in flight, median of ${rounds} rounds`, [
    ["server", "µs", "/ grpc-js", "/ connect-node"],
    ...wireKinds.map((kind) => [
      kind,
      median(costs.get(kind) ?? []).toFixed(1),
      ratio(kind, "grpc-js").toFixed(2),
      ratio(kind, "connect-node").toFixed(2),
    ]),
  ]);
});

async function startServer(kind: WireKind) {
  const file = join("bench", "support", "wire-server.ts");
  const child = spawn(process.execPath, [file, kind], { cwd: projectFolder, stdio: ["ignore", "pipe", "inherit"] });
  const [port] = (await once(createInterface({ input: child.stdout }), "line")) as [string];
  const client = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure());
  return {
    client,
    /** User and system time of the process; the kernel counts in hundredths of a second. */
    cpuMicros: () => {
      const fields = readFileSync(`/proc/${child.pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
      return (Number(fields[11]) + Number(fields[12])) * 10_000;
    },
    async [Symbol.asyncDispose]() {
      client.close();
      const ended = once(child, "exit");
      child.kill();
      await ended;
    },
  };
}

/** Makes the calls of one round, each as soon as another has ended. */
async function calls(client: grpc.Client): Promise<void> {
  let left = callsPerRound;
  const worker = async () => {
    while (left-- > 0) await call(client);
  };
  await Promise.all(Array.from({ length: inFlight }, worker));
}

function call(client: grpc.Client): Promise<void> {
  return new Promise((resolve, reject) => {
    const asIs = (bytes: Buffer) => bytes;
    client.makeUnaryRequest(path, asIs, asIs, request, (error) => (error === null ? resolve() : reject(error)));
  });
}

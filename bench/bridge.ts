import { join } from "node:path";

import { create, toBinary } from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";

import { BackupService, GetBackupRequestSchema } from "../gen/lucid/admin/v1/backup_service_pb.ts";
import { runCommand } from "../local/project.ts";
import { startPeer } from "./support/child.ts";
import { cpuMicros, makeCalls } from "./support/load.ts";
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
      const before = cpuMicros(server.pid);
      await makeCalls({ client: server.client, path, request, calls: callsPerRound, inFlight });
      // The first round warms the servers up.
      if (round > 0) costs.get(kind)?.push((cpuMicros(server.pid) - before) / callsPerRound);
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
  const server = await startPeer("wire", { arguments: [join("bench", "support", "wire-server.ts"), kind] });
  const client = new grpc.Client(`127.0.0.1:${server.said}`, grpc.credentials.createInsecure());
  return {
    client,
    pid: server.pid,
    async [Symbol.asyncDispose]() {
      client.close();
      await server[Symbol.asyncDispose]();
    },
  };
}

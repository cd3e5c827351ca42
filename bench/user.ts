import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";

import { create, toBinary } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import * as grpc from "@grpc/grpc-js";
import { MongoClient } from "mongodb";

import {
  CreateUserRequestSchema,
  GetUserRequestSchema,
  ListUsersRequestSchema,
  UserService,
} from "../gen/lucid/repository/v1/user_service_pb.ts";
import { projectFolder, runCommand } from "../local/project.ts";
import { random } from "../local/seed/random.ts";
import { tronAddress } from "../local/seed/tron.ts";
import { startStores, storeEnvironment } from "../local/stores.ts";
import { cpuMicros, type Load, makeCalls } from "./support/load.ts";
import { startService } from "./support/service-process.ts";
import { median, printTable } from "./support/table.ts";

const database = "bench_users";
const rounds = 7;
const count = 100;

/** One kind of call. */
interface Kind {
  readonly name: string;
  readonly request: Load["request"];
  readonly calls: number;
  readonly driver: () => Promise<unknown>;
}

/**
 * Users through the whole service, against a bare server that makes the same driver calls and maps documents by hand, with the
 * driver alone beside them. CPU is that of the server's process, latency that of calls one after the other. The CPU of a create
 * holds what its audit record costs, also after the call.
 */
await runCommand(async () => {
  await using stores = await startStores();
  await using service = await startService({
    ...storeEnvironment(stores),
    LUCID_MONGODB_DATABASE: database,
    LUCID_LOG_LEVEL: "info",
  });
  const users = createClient(UserService, service.transport);
  let made = 0;
  let userId = "";
  while (made < count) userId = (await users.createUser({ user: userInit(made++) })).user?.userId ?? "";
  await using peer = await startPeer(stores.mongodbUri);
  await using mongodb = await MongoClient.connect(stores.mongodbUri);
  const collection = mongodb.db(database).collection("users");
  const live = { deleted_at: null };
  const sort = { created_at: -1, user_id: -1 } as const;

  const kinds: readonly Kind[] = [
    {
      name: "GetUser",
      request: Buffer.from(toBinary(GetUserRequestSchema, create(GetUserRequestSchema, { userId }))),
      calls: 100,
      driver: () => collection.findOne({ user_id: userId, ...live }),
    },
    {
      name: "ListUsers",
      request: Buffer.from(toBinary(ListUsersRequestSchema, create(ListUsersRequestSchema, { pageSize: 100 }))),
      calls: 100,
      driver: () => collection.find(live, { sort, limit: 101, singleBatch: true }).toArray(),
    },
    // Last, since it makes the lists longer.
    {
      name: "CreateUser",
      request: () =>
        Buffer.from(toBinary(CreateUserRequestSchema, create(CreateUserRequestSchema, { user: userInit(made++) }))),
      calls: 400,
      driver: () => {
        const { tronAddress: tron_address, ...user } = userInit(made++);
        return collection.insertOne({ ...user, user_id: user.username, tron_address, created_at: new Date() });
      },
    },
  ];
  const servers = { service: { ...service, client: clientOf(service.address) }, bare: peer };
  const rows = [["rpc", "CPU µs bare", "CPU / bare", "p50 ms bare", "p50 / bare", "p50 ms driver alone"]];
  for (const { name, request, calls, driver } of kinds) {
    const path = `/${UserService.typeName}/${name}`;
    const cpu: Record<keyof typeof servers, number[]> = { service: [], bare: [] };
    const latency: Record<keyof typeof servers, number[]> = { service: [], bare: [] };
    const alone: number[] = [];
    for (let round = 0; round <= rounds; round += 1) {
      for (const kind of ["service", "bare"] as const) {
        const { client, pid } = servers[kind];
        const load = { client, path, request };
        const before = cpuMicros(pid);
        await makeCalls({ ...load, calls, inFlight: 16 });
        // What a call leaves to be done after it belongs to it.
        await pause(100);
        const used = (cpuMicros(pid) - before) / calls;
        const took = median(await makeCalls({ ...load, calls: Math.ceil(calls / 5), inFlight: 1 }));
        // The first round warms everything up.
        if (round === 0) continue;
        cpu[kind].push(used);
        latency[kind].push(took);
      }
      for (let call = 0; call < calls / 10; call += 1) {
        const began = performance.now();
        await driver();
        alone.push(performance.now() - began);
      }
    }
    const ratio = (figures: typeof cpu) =>
      median(figures.service.map((figure, round) => figure / (figures.bare[round] ?? Number.NaN))).toFixed(2);
    rows.push([
      name,
      median(cpu.bare).toFixed(0),
      ratio(cpu),
      median(latency.bare).toFixed(2),
      ratio(latency),
      median(alone).toFixed(2),
    ]);
  }
  for (const { client } of Object.values(servers)) client.close();
  printTable(`Users, ${count} stored, lists of 100, median of ${rounds} rounds`, rows);
});

function userInit(number: number) {
  return {
    email: `user${number}@example.com`,
    username: `user-${number}`,
    tronAddress: tronAddress(random("bench", number).bytes(20)),
    profile: { displayName: `User number ${number}`, bio: "Observes sessions and runs a node." },
  };
}

function clientOf(address: string): grpc.Client {
  return new grpc.Client(address, grpc.credentials.createInsecure());
}

async function startPeer(uri: string) {
  const file = join("bench", "support", "users-peer.ts");
  const child = spawn(process.execPath, [file, uri, database], {
    cwd: projectFolder,
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [port] = (await once(createInterface({ input: child.stdout }), "line")) as [string];
  return {
    pid: child.pid,
    client: clientOf(`127.0.0.1:${port}`),
    async [Symbol.asyncDispose]() {
      const ended = once(child, "exit");
      child.kill();
      await ended;
    },
  };
}

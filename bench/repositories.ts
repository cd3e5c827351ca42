import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";
import { parseArgs } from "node:util";

import {
  type DescMessage,
  type DescMethod,
  equals,
  fromBinary,
  fromJson,
  type Message,
  toBinary,
} from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";
import { type Db, MongoClient } from "mongodb";

import { UserSchema } from "../gen/lucid/repository/v1/user_pb.ts";
import { projectFolder, runCommand } from "../local/project.ts";
import { startStores, storeEnvironment } from "../local/stores.ts";
import { callBytes, cpuMicros, type Load, makeCalls } from "./support/load.ts";
import { type PlainRepository, plainRepository } from "./support/plain-repository.ts";
import { database, databaseOf, type RepositoryRow, rows, systemDatabase } from "./support/repository-rows.ts";
import { startService } from "./support/service-process.ts";
import { median, printTable } from "./support/table.ts";

/** How many are stored, and how many a list returns. */
const count = 100;

/** Who answers: the whole service, or a server that makes the same driver calls. */
interface Server {
  readonly client: grpc.Client;
  readonly pid: number | undefined;
}

interface Servers {
  readonly service: Server;
  readonly bare: Server;
  /** Bare, but for an audit log. */
  readonly audited: Server;
}

/** One kind of call. */
interface Kind {
  readonly method: DescMethod;
  readonly request: Load["request"];
  readonly calls: number;
  readonly inFlight: number;
  /** Whether it leaves a record in the audit log. */
  readonly isAudited: boolean;
  readonly alone: () => Promise<unknown>;
}

/**
 * Get, List and Create of every repository through the whole service, against a bare server that makes the same driver calls, with
 * the driver alone beside them. CPU is that of the server's process, less what the service uses while nobody calls; latency is
 * that of calls one after the other. The CPU of a create holds what its audit record costs, also after the call, and the bare server
 * keeps no log; so creates are compared with one that keeps it as well.
 * Options: `--only User,Wallet` for some of what is kept, `--rounds 3`.
 */
await runCommand(async () => {
  const { values } = parseArgs({ options: { only: { type: "string" }, rounds: { type: "string", default: "5" } } });
  const only = values.only?.split(",");
  await using stores = await startStores();
  await using mongodb = await MongoClient.connect(stores.mongodbUri);
  // What a run that was broken off has left.
  for (const name of [database, systemDatabase]) await mongodb.db(name).dropDatabase();
  await using service = await startService({
    ...storeEnvironment(stores),
    LUCID_MONGODB_DATABASE: database,
    LUCID_MONGODB_SYSTEM_DATABASE: systemDatabase,
    LUCID_LOG_LEVEL: "info",
    // Follows what was changed, in this process or in another; no part of a call.
    LUCID_SEARCH_SYNC: "off",
  });
  await using bare = await startPeer(stores.mongodbUri);
  await using audited = await startPeer(stores.mongodbUri, "audited");
  const servers: Servers = { service: { pid: service.pid, client: clientOf(service.address) }, bare, audited };
  const heading = [
    "rpc",
    "CPU µs bare",
    "CPU / bare",
    "CPU / audited",
    "p50 ms bare",
    "p50 / bare",
    "p50 ms driver alone",
  ];
  process.stdout.write(`Repositories, ${count} stored, lists of ${count}, ${values.rounds} rounds\n`);
  const idleMicros = await idle(service.pid);
  const lastIds = new Map<DescMessage, string>();
  for (const row of rows) {
    const isWanted = only === undefined || only.includes(row.entity.name);
    // Wallets are those of users.
    if (!isWanted && row.entity !== UserSchema) continue;
    const kinds = await prepared(row, { db: databaseOf(row, mongodb), servers, lastIds });
    if (!isWanted) continue;
    const table = [heading];
    for (const kind of kinds) table.push(await measured(kind, servers, { rounds: Number(values.rounds), idleMicros }));
    printTable(row.entity.name, table);
  }
  for (const { client } of Object.values(servers)) client.close();
});

/** Stores what is to be read, holds that both servers answer the same, and says what to call. */
async function prepared(
  row: RepositoryRow,
  { db, servers, lastIds }: { db: Db; servers: Servers; lastIds: Map<DescMessage, string> },
): Promise<readonly Kind[]> {
  const repository = plainRepository(row, db);
  const { entity, id: idName, inFlight = 16 } = row;
  const lastId = (of: DescMessage) => lastIds.get(of) ?? "";
  let number = 0;
  const next = () => repository.made(number++, lastId);
  const { create: creating } = repository;
  if (creating !== undefined) {
    const request = () => bytesOf(creating.input, next());
    await makeCalls({ client: servers.service.client, path: pathOf(creating), request, calls: count, inFlight });
  }
  const [getInput, listInput] = [repository.get.input, repository.list.input];
  const list = bytesOf(listInput, fromJson(listInput, { pageSize: count }));
  // Records of the audit log are in it once somebody reads it.
  await callBytes({ client: servers.service.client, path: pathOf(repository.list), request: list });
  const [newest] = await repository.findMany(1);
  const id = String(newest?.[idName]);
  lastIds.set(entity, id);
  const get = bytesOf(getInput, fromJson(getInput, { [idName]: id }));
  await holdSame(repository, [get, list], servers);
  return [
    {
      method: repository.get,
      request: get,
      calls: 1000,
      inFlight: 16,
      isAudited: false,
      alone: () => repository.find(id),
    },
    {
      method: repository.list,
      request: list,
      calls: 50,
      inFlight: 16,
      isAudited: false,
      alone: () => repository.findMany(count),
    },
    // Last, since it makes the lists longer.
    ...(creating === undefined
      ? []
      : [
          {
            method: creating,
            request: () => bytesOf(creating.input, next()),
            calls: 500,
            inFlight,
            isAudited: true,
            alone: () => repository.insert(next()),
          },
        ]),
  ];
}

/** A bare server that says less would be a peer of nothing. */
async function holdSame(repository: PlainRepository, [get, list]: readonly Buffer[], { service, bare }: Servers) {
  for (const [method, request] of [
    [repository.get, get],
    [repository.list, list],
  ] as const) {
    const said = await Promise.all(
      [service, bare].map(async ({ client }) => {
        const answer = await callBytes({ client, path: pathOf(method), request: request ?? Buffer.alloc(0) });
        const message = fromBinary(method.output, answer);
        // Tokens are the service's own.
        return Object.assign(message, "nextPageToken" in message ? { nextPageToken: "" } : {});
      }),
    );
    const [one, other] = said;
    if (one === undefined || other === undefined || !equals(method.output, one, other)) {
      throw new Error(`The servers do not answer the same to ${pathOf(method)}`);
    }
  }
}

/** CPU that a process uses while nobody calls it, in µs for each ms. */
async function idle(pid: number | undefined): Promise<number> {
  await pause(2000);
  const before = cpuMicros(pid);
  await pause(4000);
  return (cpuMicros(pid) - before) / 4000;
}

async function measured(
  { method, request, calls, inFlight, isAudited, alone }: Kind,
  servers: Servers,
  { rounds, idleMicros }: { readonly rounds: number; readonly idleMicros: number },
) {
  const cpu = { service: 0, bare: 0, audited: 0 };
  const latency: Record<keyof Servers, number[]> = { service: [], bare: [], audited: [] };
  const driver: number[] = [];
  for (let round = 0; round <= rounds; round += 1) {
    for (const kind of isAudited ? (["service", "bare", "audited"] as const) : (["service", "bare"] as const)) {
      const { client, pid } = servers[kind];
      const load = { client, path: pathOf(method), request };
      // The first round warms up: what has not been called some thousand times is not yet compiled to its end.
      if (round === 0) await makeCalls({ ...load, calls: calls * 2, inFlight });
      const [before, beganMs] = [cpuMicros(pid), performance.now()];
      await makeCalls({ ...load, calls, inFlight });
      // What a call leaves to be done after it belongs to it.
      await pause(isAudited ? 600 : 100);
      const unasked = kind === "service" ? idleMicros * (performance.now() - beganMs) : 0;
      const used = cpuMicros(pid) - before - unasked;
      const took = median(await makeCalls({ ...load, calls: Math.min(calls, 100), inFlight: 1 }));
      if (round === 0) continue;
      cpu[kind] += used;
      latency[kind].push(took);
    }
    for (let call = 0; call < Math.min(calls, 200) / 10; call += 1) {
      const began = performance.now();
      await alone();
      driver.push(performance.now() - began);
    }
  }
  const ratios = latency.service.map((took, round) => took / (latency.bare[round] ?? Number.NaN));
  return [
    method.name,
    (cpu.bare / rounds / calls).toFixed(0),
    (cpu.service / cpu.bare).toFixed(2),
    isAudited ? (cpu.service / cpu.audited).toFixed(2) : "",
    median(latency.bare).toFixed(2),
    median(ratios).toFixed(2),
    median(driver).toFixed(2),
  ];
}

function pathOf({ parent, name }: DescMethod): string {
  return `/${parent.typeName}/${name}`;
}

function bytesOf(schema: DescMessage, message: Message): Buffer {
  return Buffer.from(toBinary(schema, message));
}

function clientOf(address: string): grpc.Client {
  return new grpc.Client(address, grpc.credentials.createInsecure());
}

async function startPeer(uri: string, ...kind: readonly string[]) {
  const file = join("bench", "support", "repositories-peer.ts");
  const child = spawn(process.execPath, [file, uri, ...kind], {
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

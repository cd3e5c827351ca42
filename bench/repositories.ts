import { join } from "node:path";
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
import { runCommand } from "../local/project.ts";
import { serviceEnvironment, serviceNodeOptions } from "../local/service.ts";
import { namedStores, startStores, type StoreAddresses, storeEnvironment } from "../local/stores.ts";
import { startPeer } from "./support/child.ts";
import { commandCounter, type Passed } from "./support/command-counter.ts";
import { callBytes, cpuMicros, type Load, makeCalls } from "./support/load.ts";
import { type PlainRepository, plainRepository } from "./support/plain-repository.ts";
import { database, databaseOf, type RepositoryRow, rows, systemDatabase } from "./support/repository-rows.ts";
import { startService } from "./support/service-process.ts";
import { median, printTable } from "./support/table.ts";
import { throwawayDatabases } from "./support/throwaway.ts";

/** How many are stored, and how many a list returns. */
const count = 100;

/** Calls of each kind whose commands are counted, and how long what they leave to be done has time. */
const countedCalls = 100;
const settleMs = 1500;

/** What a server sends less often is not of the calls. */
const leastForCall = 0.02;

/** Who answers: the whole service, or a server that makes the same driver calls. */
interface Server {
  readonly client: grpc.Client;
  readonly pid: number | undefined;
}

/** Those that are compared. */
const names = ["service", "bare", "audited"] as const;

type Servers = Readonly<Record<(typeof names)[number], Server>>;

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
 * the driver alone beside them. A create leaves a record in the audit log, which is of the same write and moved by others that
 * follow; so creates are compared with a server that makes these too, and the one that keeps no log is shown beside it. CPU is that
 * of the server's process, also after a create, less what the service uses while nobody calls; latency is that of calls one after
 * the other, each server's in turn. Before anything is measured, the commands that each sends to MongoDB are counted, so that it is
 * seen that they are the same.
 * Options: `--only User,Wallet` for some of what is kept, `--rounds 3`, `--count-only`.
 */
await runCommand(async () => {
  const { values } = parseArgs({
    options: {
      only: { type: "string" },
      rounds: { type: "string", default: "5" },
      "count-only": { type: "boolean", default: false },
    },
  });
  const only = values.only?.split(",");
  await using stores = await startStores({ named: namedStores(process.env) });
  await using mongodb = await MongoClient.connect(stores.mongodbUri);
  process.stdout.write(`Repositories, ${count} stored, lists of ${count}, ${values.rounds} rounds\n`);
  await printCommands({ stores, mongodb, only });
  if (values["count-only"]) return;
  await using _ = await throwawayDatabases(mongodb, [database, systemDatabase]);
  await using started = await startServers(stores, () => stores.mongodbUri);
  const { servers } = started;
  const idleMicros = await idle(servers.service.pid);
  await forEachRow({ mongodb, servers, only }, async (row, kinds) => {
    const table = [
      ["rpc", "CPU µs", "bare", "/ bare", "/ audited", "p50 ms", "bare", "/ bare", "/ audited", "driver alone"],
    ];
    for (const kind of kinds) table.push(await measured(kind, servers, { rounds: Number(values.rounds), idleMicros }));
    printTable(row.entity.name, table);
  });
});

/** Starts the service and its peers, with the same limits of memory; `uriOf` says how each reaches MongoDB. */
async function startServers(stores: StoreAddresses, uriOf: (name: keyof Servers) => string) {
  await using stack = new AsyncDisposableStack();
  const service = stack.use(
    await startService({
      ...storeEnvironment({ ...stores, mongodbUri: uriOf("service") }),
      LUCID_MONGODB_DATABASE: database,
      LUCID_MONGODB_SYSTEM_DATABASE: systemDatabase,
      LUCID_LOG_LEVEL: "info",
      // Follows what was changed, in this process or in another; no part of a call.
      LUCID_SEARCH_SYNC: "off",
    }),
  );
  const bare = stack.use(await startBare(uriOf("bare")));
  const audited = stack.use(await startBare(uriOf("audited"), "audited"));
  const servers: Servers = { service: { pid: service.pid, client: clientOf(service.address) }, bare, audited };
  stack.defer(() => {
    for (const { client } of Object.values(servers)) client.close();
  });
  const running = stack.move();
  return { servers, [Symbol.asyncDispose]: () => running.disposeAsync() };
}

/** Stores what is to be read of each repository, and hands it over where it is wanted. */
async function forEachRow(
  { mongodb, servers, only }: { mongodb: MongoClient; servers: Servers; only: readonly string[] | undefined },
  visit: (row: RepositoryRow, kinds: readonly Kind[]) => Promise<void>,
): Promise<void> {
  const lastIds = new Map<DescMessage, string>();
  for (const row of rows) {
    const isWanted = only === undefined || only.includes(row.entity.name);
    // Wallets are those of users.
    if (!isWanted && row.entity !== UserSchema) continue;
    const kinds = await prepared(row, { db: databaseOf(row, mongodb), servers, lastIds });
    if (isWanted) await visit(row, kinds);
  }
}

/** Prints which commands each server sends to MongoDB for a call; those are marked that are not the same. */
async function printCommands({
  stores,
  mongodb,
  only,
}: {
  stores: StoreAddresses;
  mongodb: MongoClient;
  only: readonly string[] | undefined;
}): Promise<void> {
  await using _ = await throwawayDatabases(mongodb, [database, systemDatabase]);
  await using stack = new AsyncDisposableStack();
  const start = async () => stack.use(await commandCounter(stores.mongodbUri));
  const counters = { service: await start(), bare: await start(), audited: await start() };
  const { servers } = stack.use(await startServers(stores, (name) => counters[name].uri));
  await forEachRow({ mongodb, servers, only }, async (row, kinds) => {
    const table = [["for a call of", ...names.map((name) => `${name} (bytes)`), ""]];
    for (const { method, request, inFlight, isAudited } of kinds) {
      const passed = new Map<keyof Servers, ReadonlyMap<string, Passed>>();
      for (const name of isAudited ? names : names.filter((one) => one !== "audited")) {
        await pause(isAudited ? settleMs : 0);
        const load = { client: servers[name].client, path: pathOf(method), request };
        // The first one may look something up.
        await makeCalls({ ...load, calls: 1, inFlight: 1 });
        counters[name].taken();
        await makeCalls({ ...load, calls: countedCalls, inFlight });
        await pause(isAudited ? settleMs : 0);
        passed.set(name, counters[name].taken());
      }
      table.push(...commandRows(method, passed));
    }
    printTable(`${row.entity.name}: commands`, table);
  });
}

function commandRows(method: DescMethod, passed: ReadonlyMap<keyof Servers, ReadonlyMap<string, Passed>>): string[][] {
  const commands = new Set([...passed.values()].flatMap((each) => [...each.keys()].map(plainName)));
  const found = [...commands].flatMap((command) => {
    const each = names.map((name) => sumOf(passed.get(name), command));
    return each.some(({ count: times }) => times / countedCalls >= leastForCall) ? [{ command, each }] : [];
  });
  return found.map(({ command, each }) => [
    `${method.name}: ${command}`,
    ...each.map(({ count: times, bytes }) =>
      times === 0 ? "" : `${(times / countedCalls).toFixed(2)} (${(bytes / times).toFixed(0)})`,
    ),
    isSameForCall(names.flatMap((name, at) => (passed.has(name) ? (each[at]?.count ?? 0) : []))) ? "" : "differs",
  ]);
}

/** The peer's log has names of its own. */
function plainName(command: string): string {
  return command.replace(" plain_", " ");
}

function sumOf(passed: ReadonlyMap<string, Passed> | undefined, command: string): Passed {
  const same = [...(passed ?? [])].filter(([name]) => plainName(name) === command).map(([, each]) => each);
  return {
    count: same.reduce((sum, each) => sum + each.count, 0),
    bytes: same.reduce((sum, each) => sum + each.bytes, 0),
  };
}

/** Whether all send a command as often for a call; for how many calls at once they send what follows is a matter of time. */
function isSameForCall(counts: readonly number[]): boolean {
  return new Set(counts.map((times) => Math.round(times / countedCalls))).size === 1;
}

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
      calls: 3000,
      inFlight: 16,
      isAudited: false,
      alone: () => repository.find(id),
    },
    {
      method: repository.list,
      request: list,
      calls: 300,
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

/** CPU that a process uses while nobody calls it, in µs for each ms. For some seconds after its start it sees to its collections. */
async function idle(pid: number | undefined): Promise<number> {
  await pause(12_000);
  const [before, beganMs] = [cpuMicros(pid), performance.now()];
  await pause(10_000);
  return (cpuMicros(pid) - before) / (performance.now() - beganMs);
}

async function measured(
  { method, request, calls, inFlight, isAudited, alone }: Kind,
  servers: Servers,
  { rounds, idleMicros }: { readonly rounds: number; readonly idleMicros: number },
) {
  const cpu = { service: 0, bare: 0, audited: 0 };
  const latency: Record<keyof Servers, number[]> = { service: [], bare: [], audited: [] };
  const driver: number[] = [];
  const order = isAudited ? names : names.filter((name) => name !== "audited");
  for (let round = 0; round <= rounds; round += 1) {
    // Each goes first in turn: what else the machine does meets all of them alike.
    const inTurn = round % 2 === 0 ? order : order.toReversed();
    for (const kind of inTurn) {
      const { client, pid } = servers[kind];
      const load = { client, path: pathOf(method), request };
      // The first round warms up: what has not been called some thousand times is not yet compiled to its end.
      if (round === 0) await makeCalls({ ...load, calls: calls * 2, inFlight });
      const [before, beganMs] = [cpuMicros(pid), performance.now()];
      await makeCalls({ ...load, calls, inFlight });
      // What a call leaves to be done after it belongs to it.
      await pause(isAudited ? 600 : 100);
      const unasked = kind === "service" ? idleMicros * (performance.now() - beganMs) : 0;
      if (round > 0) cpu[kind] += cpuMicros(pid) - before - unasked;
    }
    // Call by call: the store gets slower with all that is created.
    for (let call = 0; call < Math.min(calls, 100); call += 1) {
      for (const kind of inTurn) {
        const [took = 0] = await makeCalls({
          client: servers[kind].client,
          path: pathOf(method),
          request,
          calls: 1,
          inFlight: 1,
        });
        if (round > 0) latency[kind].push(took);
      }
      if (call % 10 > 0) continue;
      const began = performance.now();
      await alone();
      driver.push(performance.now() - began);
    }
  }
  const slower = (peer: "bare" | "audited") => (median(latency.service) / median(latency[peer])).toFixed(2);
  return [
    method.name,
    (cpu.service / rounds / calls).toFixed(0),
    (cpu.bare / rounds / calls).toFixed(0),
    (cpu.service / cpu.bare).toFixed(2),
    isAudited ? (cpu.service / cpu.audited).toFixed(2) : "",
    median(latency.service).toFixed(2),
    median(latency.bare).toFixed(2),
    slower("bare"),
    isAudited ? slower("audited") : "",
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

async function startBare(uri: string, ...kind: readonly string[]) {
  const peer = await startPeer("peer", {
    // What a process may keep of its garbage decides how much of its time it looks for it.
    arguments: [...serviceNodeOptions, join("bench", "support", "repositories-peer.ts"), uri, ...kind],
    environment: serviceEnvironment,
  });
  return { ...peer, client: clientOf(`127.0.0.1:${peer.said}`) };
}

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import type { DescService } from "@bufbuild/protobuf";
import { type Client, createClient, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { MongoClient } from "mongodb";
import { pino } from "pino";

import { waitUntil } from "../../local/wait.ts";
import { start } from "../../src/app.ts";
import { type Config, readConfig } from "../../src/config.ts";
import { openSearch } from "../../src/stores/search.ts";
import { storeAddresses, uniqueName } from "./stores.ts";

/** The whole service on real stores, with databases and a repository of its own. */
export interface TestApp extends AsyncDisposable {
  /** A client on each listener. */
  client<S extends DescService>(service: S): Client<S>;
  http<S extends DescService>(service: S): Client<S>;
  readonly transports: Readonly<Record<"grpc" | "http", Transport>>;
  readonly grpcAddress: string;
  readonly httpAddress: string;
  readonly config: Config;
  /** A client of MongoDB, beside the service's own. */
  readonly mongodb: MongoClient;
  /** Name of a database that is removed at the end. */
  databaseName(): string;
  drain(graceMs: number): Promise<void>;
}

/** `logTo` gets every line that the service logs; without it, nothing is logged. */
export async function testApp(
  environment: Readonly<Record<string, string>> = {},
  { logTo }: { readonly logTo?: (line: string) => void } = {},
): Promise<TestApp> {
  await using stack = new AsyncDisposableStack();
  const { mongodbUri, redisUri, searchUri } = storeAddresses();
  const dir = await mkdtemp(join(tmpdir(), "lucid-app-"));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  const keyFile = join(dir, "key");
  await writeFile(keyFile, "a key that is long enough for the tests");
  const mongodb = await MongoClient.connect(mongodbUri);
  stack.defer(() => mongodb.close());
  const databases: string[] = [];
  stack.defer(async () => {
    for (const name of databases) await mongodb.db(name).dropDatabase();
  });
  const databaseName = () => {
    const name = uniqueName("data");
    databases.push(name);
    return name;
  };
  const searchPrefix = `${uniqueName("search")}-`;
  stack.defer(() => removeIndices(searchUri, searchPrefix));
  const config = readConfig({
    LUCID_GRPC_PORT: "0",
    LUCID_HTTP_PORT: "0",
    LUCID_MONGODB_URI: patient(mongodbUri),
    LUCID_REDIS_URI: redisUri,
    LUCID_SEARCH_URI: searchUri,
    LUCID_SEARCH_PREFIX: searchPrefix,
    LUCID_MONGODB_DATABASE: databaseName(),
    LUCID_MONGODB_SYSTEM_DATABASE: databaseName(),
    LUCID_BACKUP_DIR: join(dir, "repository"),
    LUCID_BACKUP_KEY_FILE: keyFile,
    // A machine or a store may stall for half a minute, which is to end no call and no lease of a test that is about something else.
    LUCID_DEFAULT_DEADLINE_MS: "180000",
    LUCID_JOB_LEASE_MS: "60000",
    // An index has shards, of which a server has only so many: a test that is about search switches it on.
    LUCID_SEARCH_SYNC: "off",
    ...environment,
  });
  const log = logTo === undefined ? pino({ level: "silent" }) : pino({ level: "trace" }, { write: logTo });
  const app = stack.use(await start(config, log));
  const [grpcAddress, httpAddress] = [`127.0.0.1:${app.grpc.port}`, `127.0.0.1:${app.http.port}`];
  // A busy machine may need its time for the first connection. Who names a MongoDB may name one that is away.
  const isReady = async () => (await fetch(`http://${httpAddress}/readyz`)).ok;
  const isThere = environment["LUCID_MONGODB_URI"] === undefined;
  if (isThere && !(await waitUntil(isReady, { withinMs: 120_000 }))) throw new Error("The service does not get ready");
  const transports = {
    grpc: createGrpcTransport({ baseUrl: `http://${grpcAddress}` }),
    http: createConnectTransport({ baseUrl: `http://${httpAddress}`, httpVersion: "1.1" }),
  };
  const running = stack.move();
  return {
    client: (service) => createClient(service, transports.grpc),
    http: (service) => createClient(service, transports.http),
    transports,
    grpcAddress,
    httpAddress,
    config,
    mongodb,
    databaseName,
    drain: (graceMs) => app.drain(graceMs),
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  };
}

/** Removes the indices of an app. Servers refuse to delete by a pattern. */
async function removeIndices(uri: string, prefix: string): Promise<void> {
  await using search = openSearch({ uri });
  const found = await search.client.cat.indices({ index: `${prefix}*`, format: "json", h: ["index"] });
  for (const { index = "" } of found) await search.client.indices.delete({ index }, { ignore: [404] });
}

/**
 * A connection string for a server that is busy at times. Where a driver takes such a one for one that is away, calls fail; and
 * what is still under way is sent again, of which the local server does both: it knows a repeated write only once the first has ended.
 */
export function patient(uri: string): string {
  const joint = uri.includes("?") ? "&" : uri.split("/").length > 3 ? "?" : "/?";
  return `${uri}${joint}connectTimeoutMS=60000&serverSelectionTimeoutMS=120000&waitQueueTimeoutMS=120000`;
}

import { randomBytes } from "node:crypto";
import { mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { parseArgs } from "node:util";

import { goTool } from "./go-tools.ts";
import { hasCode, tryLock } from "./lock.ts";
import { freePort, isFree } from "./ports.ts";
import { Complaint, localFolder, localPath, projectFolder, runCommand, say } from "./project.ts";
import { startServer, type Server } from "./server.ts";
import { serviceArguments, serviceEnvironment } from "./service.ts";
import { namedStores, startStores, storeEnvironment, type Stores } from "./stores.ts";

/** The quick start: stores, the service, and what to try first. Runs until it is told to stop. */
await runCommand(async () => {
  const stop = stopSignal();
  const { values } = parseArgs({ options: { folder: { type: "string", default: join(localFolder, "start") } } });
  const folder = resolve(values.folder);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  using _lock = lockFolder(folder);

  const grpcurl = goTool("grpcurl").catch((error: unknown) => {
    say(error instanceof Error ? error.message : String(error));
    return undefined;
  });
  say("Starting the stores …");
  await using stores = await startStores({ folder, named: namedStores(process.env) });
  tellStores(stores);

  using ports = new DisposableStack();
  const listeners = { grpc: await listener("GRPC", 50_051, ports), http: await listener("HTTP", 8080, ports) };
  say("Starting the service …");
  await using service = await startService(folder, stores, listeners);
  const tool = await grpcurl;
  stop.isReady = true;
  using _environment = writeEnvironment(folder, stores, listeners);
  process.stdout.write(whatToTry(listeners, tool));

  const died = await Promise.race([stop.asked, firstToEnd({ service, ...stores })]);
  if (died !== undefined) {
    const log = join(folder, `${died === "service" ? "service" : died}.log`);
    throw new Complaint(
      `The ${died} ended by itself; ${relative(projectFolder, log)} tells why. Everything else is stopped.`,
    );
  }
  say("\nStopping …");
});

/** Before everything is there, a signal ends the process at once; afterwards it asks for an orderly stop. */
function stopSignal(): { readonly asked: Promise<undefined>; isReady: boolean } {
  const { promise, resolve: ask } = Promise.withResolvers<undefined>();
  const stop = { asked: promise, isReady: false };
  let firstAt = 0;
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      if (!stop.isReady) process.exit(signal === "SIGINT" ? 130 : 143);
      firstAt ||= Date.now();
      // Ctrl-C arrives from the terminal and once more through npm; only a later one means impatience.
      if (Date.now() - firstAt > 2000) process.exit(130);
      ask(undefined);
    });
  }
  return stop;
}

function lockFolder(folder: string): Disposable {
  const lock = tryLock(join(folder, "lock"));
  if ("path" in lock) return lock;
  throw new Complaint(
    `Process ${lock.pid} runs a quick start in ${relative(projectFolder, folder)} already; stop it first, or name another folder: npm start -- --folder DIR`,
  );
}

interface Listener {
  readonly host: string;
  readonly port: number;
}

/**
 * Gives where the service is to listen: what the environment says, else the usual port, else a free one. The usual port is locked:
 * until the service has it, another quick start would find it free as well.
 */
async function listener(name: "GRPC" | "HTTP", usual: number, locks: DisposableStack): Promise<Listener> {
  const host = process.env[`LUCID_${name}_HOST`] ?? "127.0.0.1";
  const named = process.env[`LUCID_${name}_PORT`];
  if (named !== undefined) return { host, port: Number(named) };
  const lock = tryLock(join(localPath("ports"), String(usual)));
  if ("path" in lock) {
    locks.use(lock);
    if (await isFree(usual, host)) return { host, port: usual };
  }
  const port = await freePort();
  say(`Port ${usual} is taken; ${name === "GRPC" ? "gRPC" : "HTTP"} listens on ${port} instead`);
  return { host, port };
}

async function startService(
  folder: string,
  stores: Stores,
  listeners: { grpc: Listener; http: Listener },
): Promise<Server> {
  const { grpc, http } = listeners;
  return startServer(
    {
      name: "service",
      command: () => ({
        file: process.execPath,
        arguments: serviceArguments,
        environment: {
          ...serviceEnvironment,
          ...backupSettings(folder),
          ...volumeSettings(folder),
          ...storeEnvironment(stores),
          LUCID_GRPC_HOST: grpc.host,
          LUCID_GRPC_PORT: String(grpc.port),
          LUCID_HTTP_HOST: http.host,
          LUCID_HTTP_PORT: String(http.port),
        },
      }),
      uri: (port) => `http://${http.host === "0.0.0.0" ? "127.0.0.1" : http.host}:${port}`,
      isReady: async (uri) => (await fetch(`${uri}/readyz`, { signal: AbortSignal.timeout(2000) })).ok,
      readyWithinMs: 120_000,
      stopWithinMs: 30_000, // longer than it drains
    },
    { folder, port: http.port },
  );
}

/** Backups are on and encrypted from the first start, unless the user names a repository. */
function backupSettings(folder: string): Record<string, string> {
  if (process.env["LUCID_BACKUP_DIR"] !== undefined) return {};
  const keyFile = join(folder, "backup.key");
  try {
    writeFileSync(keyFile, randomBytes(32).toString("base64url"), { mode: 0o600, flag: "wx" });
  } catch (error) {
    if (!hasCode(error, "EEXIST")) throw error; // made by an earlier start
  }
  const repository = join(folder, "backups");
  mkdirSync(repository, { recursive: true, mode: 0o700 });
  return { LUCID_BACKUP_DIR: repository, LUCID_BACKUP_KEY_FILE: keyFile };
}

/** Volumes are on from the first start, unless the user names a folder for them. */
function volumeSettings(folder: string): Record<string, string> {
  if (process.env["LUCID_VOLUME_DIR"] !== undefined) return {};
  const volumes = join(folder, "volumes");
  mkdirSync(volumes, { recursive: true, mode: 0o700 });
  return { LUCID_VOLUME_DIR: volumes };
}

/** Leaves the addresses for `npm run seed` and others, as long as they are true. */
function writeEnvironment(
  folder: string,
  stores: Stores,
  { grpc, http }: { grpc: Listener; http: Listener },
): Disposable {
  const file = join(folder, "env");
  const entries = {
    ...storeEnvironment(stores),
    LUCID_GRPC_ADDRESS: `${grpc.host}:${grpc.port}`,
    LUCID_HTTP_URL: `http://${http.host}:${http.port}`,
  };
  const text = Object.entries(entries).map(([name, value]) => `${name}=${value}\n`);
  // The addresses of a user's own stores may hold passwords. Whoever waits for the file finds all of it.
  const whole = `${file}.new`;
  writeFileSync(whole, text.join(""), { mode: 0o600 });
  renameSync(whole, file);
  return { [Symbol.dispose]: () => rmSync(file, { force: true }) };
}

function tellStores({ mongodb, redis, search }: Stores): void {
  const tell = (name: string, setting: string, server: Server | undefined) =>
    say(server === undefined ? `  ${name}: yours, from ${setting}` : `  ${name}: ${server.uri}`);
  tell("MongoDB", "LUCID_MONGODB_URI", mongodb);
  tell("Redis", "LUCID_REDIS_URI", redis);
  tell("Search", "LUCID_SEARCH_URI", search);
}

/** Settles with the name of the first server that ends. */
async function firstToEnd(servers: {
  service: Server;
  mongodb?: Server;
  redis?: Server;
  search?: Server;
}): Promise<string> {
  const { service, mongodb, redis, search } = servers;
  const named = Object.entries({ service, mongodb, redis, search });
  const ends = named.flatMap(([name, server]) => (server === undefined ? [] : [server.ended().then(() => name)]));
  return Promise.race(ends);
}

function whatToTry({ grpc, http }: { grpc: Listener; http: Listener }, grpcurl: string | undefined): string {
  const tool = grpcurl?.startsWith(localFolder) === true ? relative(projectFolder, grpcurl) : "grpcurl";
  const call = `${tool} -plaintext`;
  const address = `${grpc.host}:${grpc.port}`;
  const lucid = `npx lucid${address === "127.0.0.1:50051" ? "" : ` --address ${address}`}`;
  const user = `{"user": {"email": "ada@example.com", "tron_address": "TJRabPrwbZy45sbavfcjinPJC18kjpRTv8"}}`;
  // In this order: a backup of stores in which nothing is yet is refused.
  return `
The service is ready: gRPC on ${address}, HTTP on http://${http.host}:${http.port}. Try:

  ${lucid} status
  ${call} ${address} list
  ${call} ${address} describe lucid.admin.v1.BackupService
  ${call} ${address} lucid.admin.v1.MonitoringService/GetHealth
  ${call} -d '${user}' ${address} lucid.repository.v1.UserService/CreateUser
  ${lucid} backup create --watch
  ${call} ${address} lucid.admin.v1.BackupService/CreateBackup
  ${call} ${address} lucid.admin.v1.BackupService/ListBackups
  curl -H 'content-type: application/json' -d '{}' http://${http.host}:${http.port}/lucid.admin.v1.BackupService/ListBackups

${grpcurl === undefined ? "grpcurl is not on this machine; install it, or install Go and start again: it is then built here.\n" : ""}npm run seed fills the stores with data. Ctrl-C stops everything.
`;
}

import { Cluster, type Command, Redis, type RedisOptions } from "ioredis";

import type { Config } from "../config.ts";
import type { LatencyRecorder } from "./latency.ts";

/** The shared client of Redis. Opening it does not wait; while the store is away, calls fail at once. */
export interface RedisStore extends AsyncDisposable {
  readonly client: Redis | Cluster;
}

/** What `openRedis` may be given. */
export interface RedisStoreOptions {
  /** Told when the connection breaks, once until it serves again. */
  readonly log?: { warn(facts: object, message: string): void };
  readonly latency?: LatencyRecorder;
}

/** Longest time in milliseconds that a command may take, the wait for the first connection included. */
const commandTimeoutMs = 5000;

/** Commands that may wait for the first connection. */
const maxWaiting = 1000;

/** Commands that wait on purpose for something to happen: not measured, and limited by their own arguments. */
const waitsOnPurpose = new Set(
  "blpop brpop brpoplpush blmove blmpop bzpopmin bzpopmax bzmpop xread xreadgroup wait waitaof".split(" "),
);

const connectionOptions = {
  connectTimeout: 2000,
  connectionName: "lucid-data",
  // Redis knows these since 7.2; before, it would answer every connection with errors.
  disableClientInfo: true,
  // A server that answers nothing for so long is given up; the operating system would take a quarter of an hour.
  socketTimeout: 2 * commandTimeoutMs,
  // A command that was sent when the connection broke may have been done. Sending it again could do it twice, so it fails,
  // and whoever knows whether it may be repeated repeats it.
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: 0,
} satisfies RedisOptions;

/** Opens the client. It reconnects by itself for as long as the process runs. */
export function openRedis(config: Config["redis"], { log, latency }: RedisStoreOptions = {}): RedisStore {
  const client =
    config.mode === "cluster"
      ? new Cluster([config.uri], clusterOptions(config.uri))
      : new Redis(config.uri, { ...connectionOptions, retryStrategy: retryDelayMs });
  guard(client, latency);
  let told = false;
  client.on("ready", () => (told = false));
  // Without a listener, ioredis prints errors on its own.
  client.on("error", (error: Error & { code?: string }) => {
    if (!told) log?.warn({ code: error.code ?? error.name }, "The connection to Redis broke");
    told = true;
  });
  return {
    client,
    async [Symbol.asyncDispose]() {
      client.disconnect();
    },
  };
}

function clusterOptions(uri: string) {
  const { username, password, protocol } = new URL(uri);
  return {
    clusterRetryStrategy: retryDelayMs,
    slotsRefreshTimeout: 2000,
    maxRedirections: 8,
    // This would send again what a node may have done before its connection broke.
    retryDelayOnFailover: 0,
    // The nodes that a cluster names are reached with what the given one is reached with.
    redisOptions: {
      ...connectionOptions,
      commandTimeout: commandTimeoutMs,
      ...(username !== "" && { username: decodeURIComponent(username) }),
      ...(password !== "" && { password: decodeURIComponent(password) }),
      ...(protocol === "rediss:" && { tls: {} }),
    },
  };
}

function retryDelayMs(attempt: number): number {
  return Math.min(50 * 2 ** Math.min(attempt, 5), 1000);
}

/** What ioredis itself sends to set a connection up. */
const handshake = new Set(["hello", "auth", "client", "select", "readonly", "info", "cluster"]);

/**
 * Limits and measures what goes through `client`. Without a connection, ioredis keeps commands in memory, as many as come;
 * here they wait only for the first connection, and once that has broken or taken too long, they fail at once.
 * Every command passes here, those of pipelines too. ioredis offers a diagnostics channel instead, which makes text of every
 * argument.
 */
function guard(client: Redis | Cluster, latency: LatencyRecorder | undefined): void {
  const openedMs = performance.now();
  const waiting = new Set<Command>();
  let mayWait = true;
  client.on("ready", () => (mayWait = false));
  client.on("close", () => {
    mayWait = false;
    // A cluster keeps them for when it is back.
    for (const command of waiting) command.reject(closed());
  });
  // Both kinds of client take a command and pass the rest on.
  const send = client.sendCommand.bind(client) as (command: Command, ...rest: unknown[]) => unknown;
  client.sendCommand = (command: Command, ...rest: unknown[]) => {
    // ioredis sends what has waited through here once more.
    if (waiting.has(command)) return send(command, ...rest);
    // `call` takes names in any case.
    const name = command.name.toLowerCase();
    const limited = !waitsOnPurpose.has(name);
    if (limited) command.setTimeout(commandTimeoutMs);
    if (client.status === "connect" && handshake.has(name)) return send(command, ...rest);
    const beganMs = performance.now();
    const ready = client.status === "ready";
    if (!ready) {
      mayWait &&= beganMs - openedMs < commandTimeoutMs;
      if (!mayWait || waiting.size >= maxWaiting) {
        command.reject(closed());
        return command.promise;
      }
      waiting.add(command);
    }
    const ended = (failed: boolean): void => {
      if (!ready) waiting.delete(command);
      if (limited) latency?.record("redis", name, performance.now() - beganMs, failed);
    };
    command.promise.then(
      () => ended(false),
      (error: unknown) => ended(isFailure(error)),
    );
    return send(command, ...rest);
  };
}

/** As ioredis says it. */
function closed(): Error {
  return new Error("Connection is closed.");
}

/** A script that is not there yet is sent by whoever called it; a key of another type is the caller's mistake. */
function isFailure(error: unknown): boolean {
  return !(error instanceof Error && /^(?:NOSCRIPT|WRONGTYPE) /.test(error.message));
}

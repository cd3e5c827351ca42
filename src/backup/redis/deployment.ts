import { setTimeout as pause } from "node:timers/promises";

import type { Cluster, Redis, RedisOptions } from "ioredis";

import { fail } from "../../errors.ts";
import { bytesOf, type Command, Connection, listOf, textOf } from "./connection.ts";
import { RefusedReply, type Reply } from "./reply-parser.ts";
import { slotOf } from "./slots.ts";

/** A server that writes are made on. */
export interface Primary {
  /** Tells it from the others of its cluster. */
  readonly id: string;
  readonly options: RedisOptions;
}

/** What of the commands that differ between versions a server has. */
export interface ServerFacts {
  /** Its version; where it is no Redis, with its name before it. */
  readonly version: string;
  /** PEXPIRETIME, which tells to the millisecond when a key expires. Redis 7. */
  readonly hasExpireTime: boolean;
  /** Streams count what was ever added to them. Redis 7. */
  readonly hasStreamCounters: boolean;
  /** Fields of hashes expire. Redis 7.4, Valkey 9. */
  readonly hasFieldExpiry: boolean;
}

/** Which primary serves which slots, one entry for each range. */
interface SlotRange {
  readonly from: number;
  readonly to: number;
  readonly primary: Primary;
}

/** The servers behind the shared client: one, or the primaries of a cluster. */
export interface Deployment {
  readonly isCluster: boolean;
  readonly primaries: readonly Primary[];
  readonly facts: ServerFacts;
  /** Which primary has which slots, as text to be compared later; empty where there is no cluster. */
  readonly topology: string;
  primaryOf(key: Uint8Array): Primary;
}

/** How often a command is tried where a cluster moves its slots or elects primaries, and the first pause, in milliseconds. */
const attempts = 8;
const firstPauseMs = 50;

/** Finds the primaries. Fails with `STORE_UNAVAILABLE`, also where a cluster does not serve all slots. */
export async function discover(client: Redis | Cluster, signal: AbortSignal): Promise<Deployment> {
  const options = await optionsOf(client);
  await using connection = await Connection.open(options, { database: 0, signal });
  const facts = await factsOf(connection);
  if (!client.isCluster) {
    const primary = { id: "", options };
    return { isCluster: false, primaries: [primary], facts, topology: "", primaryOf: () => primary };
  }
  const ranges = await slotRanges(connection, options);
  const owners = new Array<Primary>();
  for (const { from, to, primary } of ranges) for (let slot = from; slot <= to; slot++) owners[slot] = primary;
  return {
    isCluster: true,
    primaries: [...new Map(ranges.map(({ primary }) => [primary.id, primary])).values()],
    facts,
    topology: ranges.map(({ from, to, primary }) => `${from}-${to}:${primary.id}`).join(" "),
    primaryOf(key) {
      const owner = owners[slotOf(key)];
      if (owner === undefined) throw unserved();
      return owner;
    },
  };
}

/** How to connect to a server of the deployment: the one, or any of the cluster. */
async function optionsOf(client: Redis | Cluster): Promise<RedisOptions> {
  if (!("nodes" in client)) return client.options;
  // Makes the client learn the cluster where nothing has yet.
  if (client.nodes().length === 0) await client.ping();
  const [node] = client.nodes("master");
  if (node === undefined) throw unserved();
  return node.options;
}

async function factsOf(connection: Connection): Promise<ServerFacts> {
  const [info, command] = await connection.run([
    ["INFO", "server"],
    ["COMMAND", "INFO", "HPEXPIRETIME"],
  ]);
  const fields = infoFields(textOf(info));
  const name = fields.get("server_name") ?? "redis";
  const redisVersion = fields.get("redis_version") ?? "";
  const isSeven = Number(redisVersion.split(".", 1)[0]) >= 7;
  return {
    version: name === "redis" ? redisVersion : `${name} ${fields.get(`${name}_version`) ?? redisVersion}`,
    hasExpireTime: isSeven,
    hasStreamCounters: isSeven,
    hasFieldExpiry: Array.isArray(command) && Array.isArray(command[0]),
  };
}

async function slotRanges(connection: Connection, options: RedisOptions): Promise<SlotRange[]> {
  const ranges = listOf(await connection.one("CLUSTER", "SLOTS")).map((range) => {
    const [from, to, node] = listOf(range);
    const [host, port, id] = listOf(node);
    // A server that does not know its own address leaves it out: it is where it was asked.
    const known = Buffer.isBuffer(host) && host.length > 0 ? { host: host.toString() } : {};
    const primary = { id: textOf(id), options: { ...options, ...known, port: Number(port) } };
    return { from: Number(from), to: Number(to), primary };
  });
  if (ranges.reduce((sum, { from, to }) => sum + to - from + 1, 0) !== 16_384) throw unserved();
  return ranges.toSorted((one, other) => one.from - other.from);
}

/** Whether a primary of a cluster is giving slots away or taking them on. */
export async function isMigrating(connection: Connection): Promise<boolean> {
  const lines = textOf(await connection.one("CLUSTER", "NODES")).split("\n");
  return lines.some((line) => line.includes("myself") && line.includes("["));
}

/** The `name:value` lines of INFO. */
export function infoFields(info: string): Map<string, string> {
  const lines = info.split("\r\n").filter((line) => line.includes(":") && !line.startsWith("#"));
  return new Map(lines.map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1)]));
}

/** Number of keys in each database that has any. */
export async function keyspace(connection: Connection): Promise<Map<number, number>> {
  const counts = new Map<number, number>();
  for (const [name, value] of infoFields(textOf(await connection.one("INFO", "keyspace")))) {
    const keys = /^keys=(\d+)/.exec(value)?.[1];
    if (/^db\d+$/.test(name) && keys !== undefined) counts.set(Number(name.slice(2)), Number(keys));
  }
  return counts;
}

/** The server's time, in milliseconds since 1970. */
export function timeOf(reply: Reply | undefined): number {
  const [seconds, microseconds] = listOf(reply);
  return Number(bytesOf(seconds)) * 1000 + Math.trunc(Number(bytesOf(microseconds)) / 1000);
}

/** What a server's clock is ahead of this machine's, in milliseconds. */
export async function serverTimeOffset(client: Redis | Cluster, signal: AbortSignal): Promise<number> {
  await using connection = await Connection.open(await optionsOf(client), { database: 0, signal });
  const before = Date.now();
  const time = timeOf(await connection.one("TIME"));
  return time - (before + Date.now()) / 2;
}

/** Commands about one key, to be sent one after the other to the server that has it. */
export interface KeyCommands {
  readonly key: Uint8Array;
  readonly commands: readonly Command[];
}

/**
 * Connections to all primaries of a deployment in one database. Follows slots that move; the replies of a server that refuses
 * for another reason are handed on.
 */
export class Router implements AsyncDisposable {
  readonly #client: Redis | Cluster;
  readonly #database: number;
  readonly #signal: AbortSignal;
  readonly #connections = new Map<string, Promise<Connection>>();
  #deployment: Deployment;

  constructor(client: Redis | Cluster, deployment: Deployment, at: { database: number; signal: AbortSignal }) {
    this.#client = client;
    this.#deployment = deployment;
    this.#database = at.database;
    this.#signal = at.signal;
  }

  /** Runs the commands of each item; resolves with the replies, an array for each item. */
  async run(items: readonly KeyCommands[]): Promise<Reply[][]> {
    const replies: Reply[][] = items.map(() => []);
    let left = items.map((_, index) => index);
    for (let attempt = 1; left.length > 0; attempt++) {
      await this.#runOnce(items, left, replies);
      const again = left.filter((index) => replies[index]?.some(isPassing));
      if (again.length > 0 && attempt === attempts) {
        // What is away for so long is told as the server tells it.
        for (const index of again) for (const reply of replies[index] ?? []) if (isPassing(reply)) throw passing(reply);
      }
      if (again.length > 0) await this.#refresh(attempt);
      left = again;
    }
    return replies;
  }

  /**
   * Reads a key through the connection to its primary. `work` is done anew where the key's slot moves meanwhile, so it must not
   * mind being done twice.
   */
  async reading<T>(key: Uint8Array, work: (connection: Connection) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await work(await this.#connect(this.#deployment.primaryOf(key)));
      } catch (error) {
        if (!(error instanceof RefusedReply) || !isPassing(error)) throw error;
        if (attempt === attempts) throw passing(error);
        await this.#refresh(attempt);
      }
    }
  }

  async #refresh(attempt: number): Promise<void> {
    await pause(firstPauseMs * 2 ** (attempt - 1), undefined, { signal: this.#signal });
    this.#deployment = await discover(this.#client, this.#signal);
  }

  async #runOnce(items: readonly KeyCommands[], indexes: readonly number[], replies: Reply[][]): Promise<void> {
    const byPrimary = new Map<Primary, number[]>();
    for (const index of indexes) {
      const primary = this.#deployment.primaryOf(items[index]?.key ?? new Uint8Array());
      const group = byPrimary.get(primary);
      if (group === undefined) byPrimary.set(primary, [index]);
      else group.push(index);
    }
    await Promise.all(
      [...byPrimary].map(async ([primary, group]) => {
        const connection = await this.#connect(primary);
        const all = await connection.run(group.flatMap((index) => items[index]?.commands ?? []));
        let at = 0;
        for (const index of group) {
          const count = items[index]?.commands.length ?? 0;
          replies[index] = all.slice(at, at + count);
          at += count;
        }
      }),
    );
  }

  #connect(primary: Primary): Promise<Connection> {
    let connection = this.#connections.get(primary.id);
    if (connection === undefined) {
      connection = Connection.open(primary.options, { database: this.#database, signal: this.#signal });
      this.#connections.set(primary.id, connection);
    }
    return connection;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const ended of await Promise.allSettled(this.#connections.values())) {
      if (ended.status === "fulfilled") await ended.value[Symbol.asyncDispose]();
    }
  }
}

/** Refusals that pass: a slot moves or has no primary just now. ASK too: until the slot has moved, its keys are between two servers. */
const passingCodes = new Set(["MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY"]);

function isPassing(reply: Reply): reply is RefusedReply {
  return reply instanceof RefusedReply && passingCodes.has(reply.code);
}

function passing(reply: RefusedReply): Error {
  return fail("STORE_UNAVAILABLE", "The Redis cluster does not serve the slot of a key", {
    metadata: { store: "redis", server_code: reply.code },
    retryAfterMs: 1000,
    cause: reply,
  });
}

function unserved(): Error {
  return fail("STORE_UNAVAILABLE", "The Redis cluster does not serve all slots", {
    metadata: { store: "redis" },
    retryAfterMs: 1000,
  });
}

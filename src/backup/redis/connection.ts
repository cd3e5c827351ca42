import { connect as connectPlain, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";

import type { RedisOptions } from "ioredis";

import { fail } from "../../errors.ts";
import { RefusedReply, type Reply, ReplyParser } from "./reply-parser.ts";

/** A command: its name, and arguments as they go over the wire. */
export type Command = readonly [name: string, ...args: readonly (string | Buffer | number)[]];

/** How long a batch of commands may take, in milliseconds. */
const batchMs = 60_000;
/** Longer arguments are handed to the socket as they are instead of being copied. */
const copiedBytes = 32 * 1024;

interface Batch {
  readonly replies: Reply[];
  readonly commands: number;
  readonly timer: NodeJS.Timeout;
  readonly resolve: (replies: Reply[]) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * A connection of its own to one server: it selects its database, watches keys, and never comes back by itself, since a cursor
 * of SCAN is worth nothing on a server that was restarted. It speaks RESP2 itself because backups send millions of small
 * commands: the shared client's pipeline takes some 15 µs of processor time for each, this one 2.
 */
export class Connection implements AsyncDisposable {
  readonly #socket: Socket;
  readonly #signal: AbortSignal;
  readonly #waiting: Batch[] = [];
  #failure: unknown;

  private constructor(socket: Socket, signal: AbortSignal) {
    this.#socket = socket;
    this.#signal = signal;
    const parser = new ReplyParser((reply) => this.#onReply(reply));
    socket.on("data", (chunk: Buffer) => {
      try {
        parser.push(chunk);
      } catch (error) {
        this.#end(away(error));
      }
    });
    socket.on("error", (error) => this.#end(away(error)));
    socket.on("close", () => this.#end(away(undefined)));
    signal.addEventListener("abort", this.#onAbort);
  }

  /** Connects, logs in, and selects a database. Fails with `STORE_UNAVAILABLE`, `STORE_REFUSED` or `RESTORE_REFUSED`. */
  static async open(options: RedisOptions, { database, signal }: { database: number; signal: AbortSignal }) {
    signal.throwIfAborted();
    const { host = "127.0.0.1", port = 6379, path, tls, connectTimeout = 2000 } = options;
    const at = path === undefined ? { host, port } : { path };
    const socket = tls === undefined ? connectPlain(at) : connectTls({ servername: host, ...at, ...tls });
    socket.setNoDelay(true);
    socket.setTimeout(connectTimeout, () => socket.destroy(new Error("No connection in time")));
    socket.once(tls === undefined ? "connect" : "secureConnect", () => socket.setTimeout(0));
    const connection = new Connection(socket, signal);
    try {
      const { username, password } = options;
      const login: Command[] = [];
      if (password) login.push(username ? ["AUTH", username, password] : ["AUTH", password]);
      login.push(["CLIENT", "SETNAME", "lucid-backup"]);
      if (database !== 0) login.push(["SELECT", database]);
      for (const reply of await connection.run(login)) if (reply instanceof RefusedReply) throw reply;
      return connection;
    } catch (error) {
      await connection[Symbol.asyncDispose]();
      throw error;
    }
  }

  /**
   * Sends commands in one go, resolves with their replies in order. What the server refuses is a `RefusedReply` among them.
   * Fails with `STORE_UNAVAILABLE` where the connection breaks, `DEADLINE_EXCEEDED` after a minute, or as it was aborted.
   */
  run(commands: readonly Command[]): Promise<Reply[]> {
    const { promise, resolve, reject } = Promise.withResolvers<Reply[]>();
    if (this.#failure !== undefined) reject(this.#failure);
    else if (commands.length === 0) resolve([]);
    else {
      const timer = setTimeout(() => this.#end(late()), batchMs);
      this.#waiting.push({ replies: [], commands: commands.length, timer, resolve, reject });
      this.#send(commands);
    }
    return promise;
  }

  /** Sends one command; throws what the server refuses. */
  async one(...command: Command): Promise<Exclude<Reply, RefusedReply>> {
    const [reply] = await this.run([command]);
    return accepted(reply);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end(new Error("The connection to Redis was closed"));
  }

  readonly #onAbort = (): void => this.#end(this.#signal.reason);

  #send(commands: readonly Command[]): void {
    const pieces: Buffer[] = [];
    let text = "";
    const flush = (): void => {
      if (text !== "") pieces.push(Buffer.from(text, "latin1"));
      text = "";
    };
    for (const command of commands) {
      text += `*${command.length}\r\n`;
      for (const argument of command) {
        const bytes = Buffer.isBuffer(argument) ? argument : Buffer.from(String(argument));
        text += `$${bytes.length}\r\n`;
        if (bytes.length <= copiedBytes) text += bytes.toString("latin1");
        else {
          flush();
          pieces.push(bytes);
        }
        text += "\r\n";
      }
    }
    flush();
    this.#socket.cork();
    for (const piece of pieces) this.#socket.write(piece);
    this.#socket.uncork();
  }

  #onReply(reply: Reply): void {
    const [batch] = this.#waiting;
    if (batch === undefined) return this.#end(away(new Error("Redis sent a reply to nothing")));
    batch.replies.push(reply);
    if (batch.replies.length < batch.commands) return;
    this.#waiting.shift();
    clearTimeout(batch.timer);
    batch.resolve(batch.replies);
  }

  #end(error: unknown): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#signal.removeEventListener("abort", this.#onAbort);
    this.#socket.destroy();
    for (const { timer, reject } of this.#waiting.splice(0)) {
      clearTimeout(timer);
      reject(error);
    }
  }
}

/** The reply, or its refusal thrown. */
export function accepted(reply: Reply | undefined): Exclude<Reply, RefusedReply> {
  if (reply instanceof RefusedReply) throw reply;
  return reply ?? null;
}

/** The reply as text; throws where it is none. */
export function textOf(reply: Reply | undefined): string {
  const value = accepted(reply);
  if (typeof value === "number") return String(value);
  if (!Buffer.isBuffer(value)) throw new Error("Redis replied with something that is no text");
  return value.toString();
}

/** The reply as bytes; throws where it is none. */
export function bytesOf(reply: Reply | undefined): Buffer {
  const value = accepted(reply);
  if (!Buffer.isBuffer(value)) throw new Error("Redis replied with something that is no string");
  return value;
}

/** The reply as a list; throws where it is none. */
export function listOf(reply: Reply | undefined): Reply[] {
  const value = accepted(reply);
  if (!Array.isArray(value)) throw new Error("Redis replied with something that is no list");
  return value;
}

function away(cause: unknown): Error {
  return fail("STORE_UNAVAILABLE", "The connection to Redis broke", {
    metadata: { store: "redis" },
    retryAfterMs: 1000,
    cause,
  });
}

function late(): Error {
  return fail("DEADLINE_EXCEEDED", "Redis did not answer in time", { metadata: { store: "redis" } });
}

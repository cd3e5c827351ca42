import { Cluster, Redis, type RedisOptions } from "ioredis";

import { abortable, pause } from "./waiting.ts";

/** A message of Redis. */
export interface RedisMessage {
  readonly channel: Buffer;
  /** The pattern that it came by; empty where it came by its channel. */
  readonly pattern: string;
  readonly message: Buffer;
}

/** What happens to a subscription. */
export type SubscriptionEvent =
  | { readonly type: "subscribed" | "reconnected" | "heartbeat" }
  | { readonly type: "message"; readonly message: RedisMessage }
  | { readonly type: "missed"; readonly count: number };

/** What is subscribed to, and until when. */
export interface SubscribeOptions {
  readonly channels: readonly string[];
  readonly patterns: readonly string[];
  readonly heartbeatMs: number;
  readonly signal: AbortSignal;
}

/** Subscriptions of one process, over one connection. It is there while anybody subscribes. */
export interface RedisSubscriptions extends AsyncDisposable {
  /**
   * Yields events until the signal aborts, whose reason it throws. Whoever takes them sets the pace: what has no room until then
   * is counted as missed. Throws what a connection fails with where there is none for half a minute.
   */
  subscribe(options: SubscribeOptions): AsyncGenerator<SubscriptionEvent>;
}

/** What waits for one subscriber at most, and for all together. */
const mostWaiting = { messages: 1000, bytes: 4 * 1024 * 1024, bytesOfAll: 64 * 1024 * 1024 };
/** How long a connection may be away, and the pause between two tries, in milliseconds. */
const awayMs = 30_000;
const retryMs = 250;
/** So often the server is asked whether it is there; nothing else would tell of a connection that is dead without an end. */
const pingMs = 10_000;

/** Channels and patterns are told apart by their first letter. */
type Topic = `c${string}` | `p${string}`;

/** What waits for one subscriber, in order. */
class Mailbox {
  readonly wakers = new Set<() => void>();
  readonly #events: SubscriptionEvent[] = [];
  readonly #total: { bytes: number };
  #messages = 0;
  #bytes = 0;
  failure: { readonly error: unknown } | undefined;

  constructor(total: { bytes: number }) {
    this.#total = total;
  }

  put(message: RedisMessage): void {
    const bytes = sizeOf(message);
    const isFull =
      this.#messages >= mostWaiting.messages ||
      this.#bytes + bytes > mostWaiting.bytes ||
      this.#total.bytes + bytes > mostWaiting.bytesOfAll;
    if (isFull) {
      const last = this.#events.at(-1);
      const count = last?.type === "missed" ? last.count + 1 : 1;
      if (last?.type === "missed") this.#events.pop();
      this.#events.push({ type: "missed", count });
    } else {
      this.#messages++;
      this.#count(bytes);
      this.#events.push({ type: "message", message });
    }
    this.wake();
  }

  tell(type: "reconnected"): void {
    // One after the other says no more than one.
    if (this.#events.at(-1)?.type !== type) this.#events.push({ type });
    this.wake();
  }

  take(): SubscriptionEvent | undefined {
    const event = this.#events.shift();
    if (event?.type === "message") {
      this.#messages--;
      this.#count(-sizeOf(event.message));
    }
    return event;
  }

  wake(): void {
    for (const wake of this.wakers) wake();
  }

  close(): void {
    this.#events.length = 0;
    this.#count(-this.#bytes);
  }

  #count(bytes: number): void {
    this.#bytes += bytes;
    this.#total.bytes += bytes;
  }
}

function sizeOf({ channel, pattern, message }: RedisMessage): number {
  return channel.length + pattern.length + message.length;
}

/** Opens subscriptions with what `client` is connected with. Does nothing before anybody subscribes. */
export function redisSubscriptions(client: Redis | Cluster): RedisSubscriptions {
  /** Who subscribes, also who is still waiting for it to begin. */
  const members = new Set<Mailbox>();
  const topics = new Map<Topic, Set<Mailbox>>();
  const total = { bytes: 0 };
  const closing = new AbortController();
  let connection: Promise<Redis> | undefined;

  const deliver = (topic: Topic, message: RedisMessage): void => {
    for (const mailbox of topics.get(topic) ?? []) mailbox.put(message);
  };

  /** Connects, and takes up what is subscribed to already. */
  const connect = async (closed: () => void): Promise<Redis> => {
    const redis = new Redis({
      ...(await optionsOf(client)),
      lazyConnect: true,
      // What is lost in between has to be told, so it is this module that connects again.
      autoResubscribe: false,
      retryStrategy: () => null,
    });
    redis.on("error", () => {});
    redis.on("messageBuffer", (channel: Buffer, message: Buffer) =>
      // What the parser gives is a part of a larger buffer, which would be kept with it.
      deliver(`c${channel.toString()}`, { channel: Buffer.from(channel), pattern: "", message: Buffer.from(message) }),
    );
    redis.on("pmessageBuffer", (pattern: string, channel: Buffer, message: Buffer) =>
      deliver(`p${pattern}`, { channel: Buffer.from(channel), pattern, message: Buffer.from(message) }),
    );
    try {
      await redis.connect();
      await Promise.all([...topics.keys()].map((topic) => command(redis, topic, "subscribe")));
    } catch (error) {
      redis.disconnect();
      throw error;
    }
    // It may have broken behind the last reply.
    if (redis.status !== "ready") throw new Error("Connection is closed.");
    const asking = setInterval(() => void redis.ping().catch(() => redis.disconnect()), pingMs);
    redis.once("close", () => {
      clearInterval(asking);
      closed();
    });
    return redis;
  };

  /** The connection that there is, or another one. */
  const connected = (): Promise<Redis> => {
    if (connection !== undefined) return connection;
    const forget = (): boolean => {
      // Where it is another one by now, this one was ended on purpose.
      const isCurrent = connection === opening;
      if (isCurrent) connection = undefined;
      return isCurrent;
    };
    const opening = connect(() => {
      if (forget() && members.size > 0 && !closing.signal.aborted) void reconnect();
    });
    connection = opening;
    opening.catch(forget);
    return opening;
  };

  const reconnect = async (): Promise<void> => {
    const endsMs = performance.now() + awayMs;
    for (;;) {
      if (members.size === 0 || closing.signal.aborted) return;
      try {
        await connected();
        for (const mailbox of members) mailbox.tell("reconnected");
        return;
      } catch (error) {
        if (performance.now() > endsMs) return giveUp(error);
      }
      await pause(retryMs, closing.signal);
    }
  };

  const giveUp = (error: unknown): void => {
    for (const mailbox of members) {
      mailbox.failure = { error };
      mailbox.wake();
    }
  };

  /** Has messages of the topics put into the mailbox from when it resolves. */
  const join = async (mailbox: Mailbox, wanted: readonly Topic[]): Promise<void> => {
    const redis = await connected();
    // It may have left meanwhile.
    if (!members.has(mailbox)) return;
    // One connection does what it is told in its order, so that of two who come and go at once the last one decides.
    const asked = wanted.map((topic) => {
      const mailboxes = topics.get(topic) ?? new Set();
      topics.set(topic, mailboxes.add(mailbox));
      return command(redis, topic, "subscribe");
    });
    await Promise.all(asked);
  };

  const leave = (mailbox: Mailbox, wanted: readonly Topic[]): void => {
    members.delete(mailbox);
    const unused = wanted.filter((topic) => {
      const mailboxes = topics.get(topic);
      mailboxes?.delete(mailbox);
      return mailboxes?.size === 0 && topics.delete(topic);
    });
    mailbox.close();
    const open = connection;
    if (members.size === 0) connection = undefined;
    void open?.then(
      (redis) => {
        if (connection !== open) return redis.disconnect();
        // A connection that has broken has forgotten it.
        for (const topic of unused) if (!topics.has(topic)) command(redis, topic, "unsubscribe").catch(() => {});
      },
      () => {},
    );
  };

  return {
    async *subscribe({ channels, patterns, heartbeatMs, signal }) {
      const ending = AbortSignal.any([signal, closing.signal]);
      const wanted: Topic[] = [
        ...channels.map((name): Topic => `c${name}`),
        ...patterns.map((pattern): Topic => `p${pattern}`),
      ];
      const mailbox = new Mailbox(total);
      members.add(mailbox);
      try {
        await abortable(join(mailbox, wanted), ending);
        yield { type: "subscribed" };
        for (;;) {
          ending.throwIfAborted();
          const event = mailbox.take();
          if (event !== undefined) yield event;
          else if (mailbox.failure !== undefined) throw mailbox.failure.error;
          else if (await isQuiet(mailbox, heartbeatMs, ending)) yield { type: "heartbeat" };
        }
      } finally {
        leave(mailbox, wanted);
      }
    },

    async [Symbol.asyncDispose]() {
      closing.abort(new Error("Connection is closed."));
      const open = connection;
      connection = undefined;
      await open?.then(
        (redis) => redis.disconnect(),
        () => {},
      );
    },
  };
}

/** Whether nothing came for so long. */
async function isQuiet(mailbox: Mailbox, ms: number, signal: AbortSignal): Promise<boolean> {
  let isWoken = false;
  const woken = (): void => {
    isWoken = true;
  };
  mailbox.wakers.add(woken);
  await pause(ms, signal, mailbox.wakers);
  mailbox.wakers.delete(woken);
  return !isWoken && !signal.aborted;
}

function command(redis: Redis, topic: Topic, what: "subscribe" | "unsubscribe"): Promise<unknown> {
  const name = topic.slice(1);
  if (topic.startsWith("c")) return redis[what](name);
  return what === "subscribe" ? redis.psubscribe(name) : redis.punsubscribe(name);
}

/** How to connect to the server, or to any of a cluster: a message reaches all of them. */
async function optionsOf(client: Redis | Cluster): Promise<Omit<RedisOptions, "replyMapping">> {
  if (!(client instanceof Cluster)) return client.options;
  if (client.nodes().length === 0) await client.ping();
  const nodes = client.nodes("master");
  const node = nodes[Math.floor(Math.random() * nodes.length)];
  if (node === undefined) throw new Error("None of startup nodes is available");
  return node.options;
}

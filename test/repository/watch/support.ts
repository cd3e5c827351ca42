import { type CallOptions, ConnectError } from "@connectrpc/connect";

import type { User } from "../../../gen/lucid/repository/v1/user_pb.ts";
import type { WatchUsersResponse } from "../../../gen/lucid/repository/v1/user_service_pb.ts";
import { WatchEventType, WatchEventTypeSchema } from "../../../gen/lucid/repository/v1/watch_pb.ts";

/** A client that watches and writes down what it is told. */
export interface Watching<E> extends Disposable {
  readonly events: readonly E[];
  /** Resolves with all events when one `fits`; rejects as soon as the watch fails. */
  until(fits: (event: E) => boolean): Promise<readonly E[]>;
  /** Resolves with what the watch fails with. */
  failure(): Promise<ConnectError>;
  /** Leaves. */
  stop(): void;
}

export function watching<E>(call: (options: CallOptions) => AsyncIterable<E>): Watching<E> {
  const events: E[] = [];
  const leaving = new AbortController();
  const lookAgain = new Set<() => void>();
  const failed = Promise.withResolvers<never>();
  failed.promise.catch(() => undefined);
  const read = async () => {
    for await (const event of call({ signal: leaving.signal })) {
      events.push(event);
      for (const look of lookAgain) look();
    }
    throw new Error("The watch ended without an error");
  };
  read().catch((error: unknown) => failed.reject(error));
  return {
    events,
    async until(fits) {
      const found = Promise.withResolvers<void>();
      const look = () => {
        if (events.some(fits)) found.resolve();
      };
      lookAgain.add(look);
      look();
      await Promise.race([found.promise, failed.promise]);
      lookAgain.delete(look);
      return events;
    },
    failure: () => failed.promise.catch((error: unknown) => ConnectError.from(error)),
    stop: () => leaving.abort(),
    [Symbol.dispose]: () => leaving.abort(),
  };
}

/** An event in short: its type, the user and the revision. */
export function short({ type, userId, revision }: WatchUsersResponse): string {
  const name = WatchEventTypeSchema.value[type]?.localName;
  return type === WatchEventType.CHECKPOINT ? `${name}` : `${name} ${userId} ${revision}`;
}

export function isCheckpoint({ type }: { readonly type: WatchEventType }): boolean {
  return type === WatchEventType.CHECKPOINT;
}

/** What a client knows that applies every event, and nothing else. */
export class Model {
  readonly users = new Map<string, User>();
  readonly #revisions = new Map<string, bigint>();
  readonly #existing = new Map<string, bigint>();
  /** The token to go on with. */
  token = "";

  apply(event: WatchUsersResponse): void {
    const { type, userId, revision, user, resumeToken } = event;
    if (type !== WatchEventType.EXISTING) this.token = resumeToken;
    if (type === WatchEventType.CHECKPOINT) return;
    const before = this.#revisions.get(userId) ?? 0n;
    // As the contract has it of a call that goes on right after what exists.
    if (revision <= (this.#existing.get(userId) ?? 0n)) return;
    if (type === WatchEventType.EXISTING) this.#existing.set(userId, revision);
    if (revision <= before) throw new Error(`${short(event)} came after revision ${before}`);
    this.#revisions.set(userId, revision);
    if (type === WatchEventType.REMOVED) {
      this.users.delete(userId);
      return;
    }
    if (user?.revision !== revision) throw new Error(`${short(event)} has revision ${user?.revision}`);
    if (type === WatchEventType.CREATED && before !== 0n) throw new Error(`${short(event)} was told before`);
    this.users.set(userId, user);
  }
}

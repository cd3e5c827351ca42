import {
  create,
  type DescEnum,
  type DescMessage,
  type EnumShape,
  type Message,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import type { Duration } from "@bufbuild/protobuf/wkt";
import type { HandlerContext } from "@connectrpc/connect";
import type { Document } from "bson";
import type { Db } from "mongodb";

import type { Config } from "../../config.ts";
import { isReason } from "../../errors.ts";
import { collectionOf } from "../../schema/collection.ts";
import { type ListOrder, listOrder, type Restrictions } from "../../schema/list-query.ts";
import type { PageTokens } from "../../schema/page-tokens.ts";
import { badRequest } from "../../schema/refusals.ts";
import { storedNames } from "../../schema/stored-field.ts";
import { tokenInvalid } from "./failures.ts";
import { Feeds } from "./feeds.ts";
import { type Position, positionOf, positionText } from "./position.ts";
import { watch, type WatchEvent, type WatchOptions } from "./watch.ts";

/** What is watched of one entity. */
export interface WatchedEntity {
  /** Its message says where it is stored. */
  readonly schema: DescMessage;
  /** Stored name of the field that identifies one, for example `user_id`. */
  readonly id: string;
  /** See `WatchOptions`. */
  readonly steps?: WatchOptions["steps"];
}

/** The request of a watch; `checkpoint_interval` alone may change when it goes on. */
type WatchRequest = Message & {
  readonly resumeToken: string;
  readonly checkpointInterval?: Duration | undefined;
};

/** One watch. */
export interface WatchCall<D extends DescMessage> {
  readonly schema: D;
  readonly request: MessageShape<D> & WatchRequest;
  readonly filter: Document;
  /** What exists of it and is told first, in an order by fields that never change; nothing where there is none. */
  readonly existing?: WatchOptions["existing"] | undefined;
}

/** An event, with the token that goes on after it. */
export type ToldEvent = Omit<WatchEvent, "position"> & { readonly resumeToken: string };

/** Serves the watches of the domain's collections. */
export interface Watches extends AsyncDisposable {
  /** Returns what serves the watches of one entity. All who ask for the same one share its change stream. */
  of(entity: WatchedEntity): EntityWatches;
}

export interface EntityWatches {
  /** Tells all that changes from now on, for whoever keeps copies in this process; first a checkpoint, once it has begun. */
  follow(signal: AbortSignal): AsyncGenerator<WatchEvent>;
  watch<D extends DescMessage>(call: WatchCall<D>, context: HandlerContext): AsyncGenerator<ToldEvent>;
}

/** How long a stream that nobody follows stays open, for those who come back. */
const lingerMs = 30_000;

/** How long watches hold on while the store cannot be reached. */
const holdOnMs = 30_000;

const defaultCheckpointMs = 30_000;

/** So often one who follows may look around. */
const followCheckpointMs = 5000;

/** `draining` aborts when the process stops: watches end then, so that their clients go on elsewhere. */
export function watchesOf(options: {
  readonly db: Db;
  readonly settings: Config["watches"];
  readonly pageTokens: () => Promise<PageTokens>;
  readonly draining: AbortSignal;
  readonly interruptionMs?: number;
}): Watches {
  const { db, settings, pageTokens, draining, interruptionMs = holdOnMs } = options;
  const feeds = new Map<string, Feeds>();
  const closed = new AbortController();
  const closing = AbortSignal.any([draining, closed.signal]);

  const feedsOf = (collection: string, id: string): Feeds => {
    const known = feeds.get(collection);
    if (known !== undefined) return known;
    const opened = new Feeds({ db, collection, id, ...settings, lingerMs, interruptionMs });
    feeds.set(collection, opened);
    return opened;
  };

  return {
    of: ({ schema: entity, id, steps }) => ({
      follow(signal) {
        const { name: collection } = collectionOf(entity);
        const all = { db, collection, id, filter: {}, checkpointMs: followCheckpointMs, seal: () => "" };
        return watch(feedsOf(collection, id), { ...all, signal, closing });
      },

      async *watch({ schema, request, filter, existing }, { signal }) {
        const { resumeToken, checkpointInterval } = request;
        const tokens = await pageTokens();
        const query = queryOf(schema, request);
        const seal = (position: Position) => tokens.encode(query, positionText(position));
        const text = resumeToken === "" ? undefined : tokens.open(query, resumeToken);
        if (resumeToken !== "" && text === undefined) throw tokenInvalid();
        const { name: collection } = collectionOf(entity);
        const events = watch(feedsOf(collection, id), {
          db,
          collection,
          id,
          filter,
          checkpointMs: checkpointInterval === undefined ? defaultCheckpointMs : msOf(checkpointInterval),
          seal,
          signal,
          closing,
          ...(existing !== undefined && { existing }),
          ...(steps !== undefined && { steps }),
          ...(text !== undefined && { from: positionOf(text) }),
        });
        for await (const { position, ...event } of events) {
          yield { ...event, resumeToken: position === undefined ? "" : seal(position) };
        }
      },
    }),
    async [Symbol.asyncDispose]() {
      closed.abort();
      await Promise.all(Array.from(feeds.values(), (one) => one[Symbol.asyncDispose]()));
    },
  };
}

/** What a token is bound to: the method's request, with all that decides what is told. */
function queryOf<D extends DescMessage>(schema: D, request: MessageShape<D>): Uint8Array {
  // A request that is a message has these members if its proto does.
  const same = create(schema, { ...request, resumeToken: "", checkpointInterval: undefined } as never);
  return Buffer.concat([Buffer.from(`${schema.typeName}\0`), toBinary(schema, same)]);
}

/** An order for what exists, by fields that never change. Fails with `BAD_REQUEST` where no index gives it with the filter. */
export function existingOrder(
  schema: DescMessage,
  restrictions: Restrictions,
  by: { id: string; order: string },
): ListOrder {
  try {
    return listOrder(schema, by.order, restrictions, { id: by.id, fallback: by.order });
  } catch (error) {
    if (!isReason(error, "BAD_REQUEST")) throw error;
    throw badRequest({ field: "filter", description: "must be one that a list takes, or changes_only set" });
  }
}

/** The value of an enum that is stored under a name; 0 where there is none. */
export function storedNumber<D extends DescEnum>(desc: D, name: unknown): EnumShape<D> {
  const number = storedNames(desc).find((value) => value.name === name)?.number ?? 0;
  return number as EnumShape<D>; // one of its numbers
}

function msOf({ seconds, nanos }: Duration): number {
  return Number(seconds) * 1000 + nanos / 1e6;
}

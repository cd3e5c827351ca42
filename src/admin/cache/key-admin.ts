import { type JsonValue, toJson } from "@bufbuild/protobuf";
import { durationMs, ValueSchema } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";

import {
  type CacheService,
  type FlushKeysRequest,
  GetKeyRequestSchema,
  ScanKeysRequestSchema,
  SetCondition,
  type SetKeyRequest,
} from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { fail } from "../../errors.ts";
import type { CarryOut } from "../../schema/audited-call.ts";
import { pageSizeOf, queryOf } from "../../schema/list-query.ts";
import type { PageTokens } from "../../schema/page-tokens.ts";
import { badRequest } from "../../schema/refusals.ts";
import type { RedisStore } from "../../stores/redis.ts";
import { pause } from "../../stores/waiting.ts";
import { flushed, flushMessage, type FlushProgress } from "./flush.ts";
import { keyPages } from "./key-pages.ts";
import { keyspaceOf, positionExpired } from "./key-scan.ts";
import { readValue, scannedTypes } from "./key-value.ts";
import {
  bytesOfName,
  factsOf,
  isOwn,
  isProtected,
  keyMessage,
  keyNotFound,
  keyProtected,
  keyResource,
  keysAtOnce,
  nameOf,
  originOf,
  textOfKey,
} from "./keys.ts";

/** What looking after keys needs. */
export interface KeyAdminOptions {
  readonly redis: RedisStore;
  readonly pageTokens: () => Promise<PageTokens>;
  /** Tells the audit log of a change. */
  readonly carryOut: CarryOut;
  /** Aborted when the process stops taking calls. */
  readonly draining: AbortSignal;
}

/** Between two events of a flush, in milliseconds. */
const flushEventMs = 1000;
/** Keys that the audit log names of a call. */
const mostNamed = 10;

/** The handlers that show and change keys, whatever they are for. */
export function keyAdmin({
  redis,
  pageTokens,
  carryOut,
  draining,
}: KeyAdminOptions): Pick<
  ServiceImpl<typeof CacheService>,
  "scanKeys" | "getKey" | "setKey" | "deleteKeys" | "flushKeys"
> {
  const { client } = redis;
  const pageOf = keyPages({ client, pageTokens });

  /** Asks about each key: 1 where it is there, or was until now, 0 where it is not. */
  const askEach = async (command: "unlink" | "exists", keys: readonly Buffer[]): Promise<number[]> => {
    const replies: number[] = [];
    // No pipeline: a cluster takes none of keys that are on different servers.
    for (let first = 0; first < keys.length; first += keysAtOnce) {
      const batch = keys.slice(first, first + keysAtOnce);
      replies.push(...(await Promise.all(batch.map((key) => client[command](key)))));
    }
    return replies;
  };

  const flushRun = async (
    { pattern, validateOnly: isDry }: FlushKeysRequest,
    signal: AbortSignal,
    tell: (progress: FlushProgress) => void,
  ): Promise<void> => {
    const keyspace = await keyspaceOf(client);
    for await (const progress of flushed(keyspace, { pattern, isDry, signal })) tell(progress);
    if ((await keyspaceOf(client)).version !== keyspace.version) throw positionExpired("servers or slots have changed");
  };

  return {
    async scanKeys(request, { signal }) {
      const { pattern, type } = request;
      const page = await pageOf(ScanKeysRequestSchema, request, { filter: { pattern, type }, signal });
      const keys = [];
      for (const [node, names] of page.found) {
        if (request.namesOnly) keys.push(...names.map((key) => ({ name: nameOf(key), origin: originOf(key) })));
        else keys.push(...(await factsOf(node, names)).map(keyMessage));
      }
      return { keys, nextPageToken: page.nextPageToken };
    },

    async getKey(request) {
      const key = bytesOfName(request.name);
      const query = queryOf(GetKeyRequestSchema, request);
      const tokens = await pageTokens();
      const [facts] = await factsOf(client, [key]);
      if (facts === undefined) throw keyNotFound(key);
      const isScanned = scannedTypes.has(facts.type);
      const version = isScanned ? (await keyspaceOf(client)).version : "";
      const from = valuePositionOf(tokens.decode(query, request.pageToken), facts.type, version);
      const { format } = request;
      const page = await readValue(client, { facts, from, format, size: pageSizeOf(request.pageSize) });
      const position = page.next && JSON.stringify([facts.type, version, page.next]);
      return {
        key: keyMessage(facts),
        length: BigInt(page.length),
        value: page.value,
        nextPageToken: position === undefined ? "" : tokens.encode(query, position),
      };
    },

    async setKey(request, context) {
      const key = bytesOfName(request.name);
      if (isOwn(key)) throw keyProtected(key);
      const command = ["SET", key, valueOf(request), ...setOptions(request)] as const;
      await carryOut(context, keyResource(textOfKey(key)), async () => {
        if ((await client.call(...command)) !== null) return;
        if (request.condition === SetCondition.IF_PRESENT) throw keyNotFound(key);
        const name = textOfKey(key);
        throw fail("CACHE_KEY_ALREADY_EXISTS", `There is a key ${name} already`, {
          metadata: { key: name },
          resource: keyResource(name),
        });
      });
      return {};
    },

    async deleteKeys({ keys: texts, rawKeys, validateOnly }, context) {
      const keys = [...texts.map((text) => Buffer.from(text)), ...rawKeys.map((bytes) => Buffer.from(bytes))];
      const kept = keys.find(isProtected);
      if (kept !== undefined) throw keyProtected(kept);
      // One that is named twice is there, or not, both times.
      const distinct = new Map(keys.map((key) => [key.toString("latin1"), key]));
      const replies = validateOnly
        ? await askEach("exists", [...distinct.values()])
        : await carryOut(context, keyResource(namesOf(keys)), () => askEach("unlink", [...distinct.values()]));
      const found = new Set([...distinct.keys()].filter((_, index) => (replies[index] ?? 0) > 0));
      return {
        keys: keys.map((key, index) => ({
          name: index < texts.length ? { case: "key", value: key.toString() } : { case: "rawKey", value: key },
          found: found.has(key.toString("latin1")),
        })),
        foundCount: found.size,
      };
    },

    async *flushKeys(request, context: HandlerContext) {
      const { pattern, confirmPattern, validateOnly } = request;
      if (!validateOnly && confirmPattern !== pattern) {
        throw fail("CONFIRMATION_MISMATCH", "confirm_pattern must repeat the pattern", { metadata: { pattern } });
      }
      const leaving = new AbortController();
      const ended = new AbortController();
      const signal = AbortSignal.any([context.signal, draining, leaving.signal]);
      let latest: FlushProgress | undefined;
      const run = () => flushRun(request, signal, (progress) => (latest = progress));
      const work = (validateOnly ? run() : carryOut(context, keyResource(pattern), run)).finally(() => ended.abort());
      // It is awaited below, where this has not been left before.
      work.catch(() => {});
      try {
        for (;;) {
          await pause(flushEventMs, ended.signal);
          if (ended.signal.aborted) break;
          if (latest !== undefined) yield flushMessage(latest, false);
        }
        await work;
        if (latest !== undefined) yield flushMessage(latest, true);
      } catch (error) {
        if (context.signal.aborted || !draining.aborted) throw error;
        throw fail("DRAINING", "The process stops; call again to go on", { retryAfterMs: 1000 });
      } finally {
        leaving.abort(new Error("Nobody listens to the flush any more"));
      }
    },
  };
}

/** Reads what `getKey` has put into a token. */
function valuePositionOf(position: string | undefined, type: string, version: string): string | undefined {
  if (position === undefined) return undefined;
  const [typeThen, versionThen, next] = JSON.parse(position) as [string, string, string]; // sealed by this service
  if (typeThen !== type) throw positionExpired("the key has another type");
  if (versionThen !== version) throw positionExpired("servers or slots have changed");
  return next;
}

function valueOf({ value }: SetKeyRequest): Buffer {
  switch (value.case) {
    case "text":
    case "raw":
      return Buffer.from(value.value);
    case "json": {
      let json: JsonValue;
      try {
        json = toJson(ValueSchema, value.value);
      } catch {
        throw badRequest({ field: "json", description: "must be a value that JSON can say" });
      }
      return Buffer.from(JSON.stringify(json));
    }
    case undefined:
      throw new Error("The rules of the contract let no request without a value through");
  }
}

function setOptions({ ttl, keepTtl, condition }: SetKeyRequest): string[] {
  return [
    ...(ttl === undefined ? [] : ["PX", String(Math.floor(durationMs(ttl)))]),
    ...(keepTtl ? ["KEEPTTL"] : []),
    ...(condition === SetCondition.IF_ABSENT ? ["NX"] : []),
    ...(condition === SetCondition.IF_PRESENT ? ["XX"] : []),
  ];
}

/** What the audit log says of the keys of a call. */
function namesOf(keys: readonly Buffer[]): string {
  const named = keys.slice(0, mostNamed).map(textOfKey).join(" ");
  return keys.length <= mostNamed ? named : `${named} and ${keys.length - mostNamed} more`;
}

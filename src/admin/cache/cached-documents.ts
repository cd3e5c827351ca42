import { type DescMessage, fromBinary, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import { type Duration, durationFromMs, durationMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { Redis } from "ioredis";

import {
  type CachedSessionSchema,
  type DocumentCacheService,
  ListCachedSessionsRequestSchema,
} from "../../../gen/lucid/repository/v1/document_cache_service_pb.ts";
import { SessionSchema } from "../../../gen/lucid/repository/v1/session_pb.ts";
import { UserSchema } from "../../../gen/lucid/repository/v1/user_pb.ts";
import { fail, type Reason } from "../../errors.ts";
import { codecFor } from "../../schema/codec.ts";
import type { FoundDocuments } from "../../schema/found-documents.ts";
import { pageSizeOf, queryOf } from "../../schema/list-query.ts";
import { redisScript, serverTime } from "../../stores/redis-script.ts";
import { copies, type CopyRead, takeOut } from "./copies.ts";
import { type CacheTime, type DocumentChange, followedChanges } from "./followed-changes.ts";
import type { KeyAdminOptions } from "./key-admin.ts";
import { keyPages } from "./key-pages.ts";
import { keyspaceOf, positionExpired, scanStart, scanSteps } from "./key-scan.ts";
import { askOfEach, keysAtOnce, ownPrefixes } from "./keys.ts";

/** What copies of documents need. */
export interface CachedDocumentsOptions extends Pick<KeyAdminOptions, "redis" | "pageTokens" | "carryOut"> {
  /** Reads documents where they are stored. */
  readonly documents: FoundDocuments;
  /** Tells changes of documents from now on; first, and now and then, one without an id. */
  readonly changesOf: {
    readonly sessions: (signal: AbortSignal) => AsyncIterable<DocumentChange>;
    readonly users: (signal: AbortSignal) => AsyncIterable<DocumentChange>;
  };
}

const usualTtlMs = 3_600_000;

/**
 * The sessions of a user that have copies, or had: by when they go. A copy is in it before it is stored. ARGV: the session, its
 * time to live.
 */
const listScript = `
local time = ${serverTime}
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
`;

/** The cache of sessions and users. */
export function cachedDocuments({
  redis,
  pageTokens,
  carryOut,
  documents,
  changesOf,
}: CachedDocumentsOptions): CachedDocuments {
  const { client } = redis;
  const pageOf = keyPages({ client, pageTokens });
  const list = redisScript(listScript);
  // Servers of a cluster have clocks of their own; a copy is newer than this only if it is by each of them.
  const now = async (): Promise<CacheTime> => {
    const { servers, version } = await keyspaceOf(client);
    const times = await Promise.all(servers.map((node) => node.time()));
    const atMs = times.map(([seconds, micros]) => Number(seconds) * 1000 + Math.floor(Number(micros) / 1000));
    return { atMs: Math.max(...atMs), servers: version };
  };

  const kindOf = <D extends typeof SessionSchema | typeof UserSchema>(kind: {
    readonly schema: D;
    readonly prefix: string;
    readonly follow: (signal: AbortSignal) => AsyncIterable<DocumentChange>;
    readonly idField: string;
    readonly notFound: Reason;
  }) => {
    const { schema, prefix, follow, idField, notFound } = kind;
    const noun = idField.replace("_id", "");
    const changed = ({ id, revision }: DocumentChange) => takeOut(client, `${prefix}${id}`, revision);
    const changes = followedChanges({ follow, changed, now });
    const kept = copies({ client, prefix, changes });
    const { transcoder } = codecFor<DescMessage>(schema);
    return {
      ...kept,
      changes,

      async read(
        id: string,
        context: HandlerContext,
        { ttlMs = usualTtlMs, anew = false, isListed = false, minRevision = 0n } = {},
      ): Promise<Omit<CopyRead, "bytes"> & { readonly message: MessageShape<D> }> {
        const read = await kept.read({
          id,
          ttlMs,
          anew,
          minRevision,
          signal: context.signal,
          async load() {
            const wanted = { schema, id: idField, ids: [id], showDeleted: false };
            const found = (await documents.read(wanted, context)).get(id);
            if (found === undefined) return undefined;
            const bytes = transcoder.message(found);
            const { revision, userId } = fromBinary<typeof SessionSchema | typeof UserSchema>(schema, bytes);
            return { bytes, revision, userId };
          },
          ...(isListed && { storing: ({ userId }) => list(client, listKeyOf(userId), [id, ttlMs]) }),
        });
        if (read === undefined) {
          throw fail(notFound, `There is no ${noun} ${id}`, {
            metadata: { [idField]: id },
            resource: { type: schema.typeName, name: id },
          });
        }
        const message = fromBinary(schema, read.bytes);
        const { revision } = message as MessageShape<typeof SessionSchema | typeof UserSchema>;
        // No write that was acknowledged has made it, or a restore has undone that.
        if (revision < minRevision) {
          throw fail("CACHE_REVISION_NOT_REACHED", `The ${noun} ${id} is at revision ${revision}`, {
            metadata: { [idField]: id, revision: String(revision), min_revision: String(minRevision) },
          });
        }
        return { ...read, message };
      },
    };
  };
  const sessions = kindOf({
    schema: SessionSchema,
    prefix: ownPrefixes.session,
    follow: changesOf.sessions,
    idField: "session_id",
    notFound: "SESSION_NOT_FOUND",
  });
  const users = kindOf({
    schema: UserSchema,
    prefix: ownPrefixes.user,
    follow: changesOf.users,
    idField: "user_id",
    notFound: "USER_NOT_FOUND",
  });

  /** A page of the ids of a user's sessions that have copies, or had. */
  const listedPage = async (userId: string, cursor: string, size: number) => {
    const [next, flat] = await client.zscan(listKeyOf(userId), cursor, "COUNT", size);
    return { ids: flat.filter((_, index) => index % 2 === 0), next };
  };

  const removeAll = async (signal: AbortSignal): Promise<number> => {
    const keyspace = await keyspaceOf(client);
    const filter = { pattern: `${ownPrefixes.session}*`, type: "hash" };
    let removed = 0;
    for await (const { node, keys } of scanSteps(keyspace, { from: scanStart, filter, signal })) {
      const replies = await askOfEach(node, keys, (asked, key) => asked.hexists(key, "bytes").unlink(key));
      removed += replies.filter((reply, index) => index % 2 === 0 && reply === 1).length;
    }
    return removed;
  };

  const removeOf = async (userId: string, signal: AbortSignal): Promise<number> => {
    let [cursor, removed] = ["0", 0];
    do {
      signal.throwIfAborted();
      const page = await listedPage(userId, cursor, keysAtOnce);
      const found = await Promise.all(page.ids.map((id) => sessions.remove(id)));
      removed += found.filter(Boolean).length;
      cursor = page.next;
    } while (cursor !== "0");
    return removed;
  };

  const handlers: CachedDocuments["handlers"] = {
    async createCachedSession({ sessionId, ttl }, context) {
      const options = { ttlMs: ttlOf(ttl), anew: true, isListed: true };
      const { message, isKept } = await sessions.read(sessionId, context, options);
      return { session: message, cached: isKept };
    },

    async getCachedSession({ sessionId, minRevision }, context) {
      const { message, isCopy } = await sessions.read(sessionId, context, { isListed: true, minRevision });
      return { session: message, fromCache: isCopy };
    },

    async touchCachedSession({ sessionId, ttl }) {
      const ttlMs = ttlOf(ttl);
      const userId = await sessions.touch(sessionId, ttlMs);
      if (userId === undefined) {
        const metadata = { session_id: sessionId };
        throw fail("CACHED_SESSION_NOT_FOUND", `There is no copy of the session ${sessionId}`, { metadata });
      }
      await list(client, listKeyOf(userId), [sessionId, ttlMs]);
      return {};
    },

    async listCachedSessions(request, { signal }) {
      const filter = { pattern: `${ownPrefixes.session}*`, type: "hash" };
      if (request.userId === "") {
        const page = await pageOf(ListCachedSessionsRequestSchema, request, { filter, signal });
        const found = [];
        for (const [node, keys] of page.found) found.push(...(await describe(node, keys)));
        return { sessions: found, nextPageToken: page.nextPageToken };
      }
      const query = queryOf(ListCachedSessionsRequestSchema, request);
      const tokens = await pageTokens();
      const { version } = await keyspaceOf(client);
      const position = tokens.decode(query, request.pageToken);
      const [then, cursor] = JSON.parse(position ?? JSON.stringify([version, "0"])) as [string, string]; // sealed by this service
      if (then !== version) throw positionExpired("servers or slots have changed");
      const page = await listedPage(request.userId, cursor, pageSizeOf(request.pageSize));
      const found = await Promise.all(page.ids.map((id) => describe(client, [Buffer.from(sessions.keyOf(id))])));
      return {
        sessions: found.flat().filter(({ userId }) => userId === request.userId),
        nextPageToken: page.next === "0" ? "" : tokens.encode(query, JSON.stringify([version, page.next])),
      };
    },

    async deleteCachedSession({ sessionId }, context) {
      const resource = { type: "CachedSession", name: sessionId };
      return { found: await carryOut(context, resource, () => sessions.remove(sessionId)) };
    },

    async clearCachedSessions({ userId }, context) {
      const { signal } = context;
      const run = () => (userId === "" ? removeAll(signal) : removeOf(userId, signal));
      const resource = { type: "CachedSession", name: userId === "" ? "*" : `user ${userId}` };
      return { deletedCount: BigInt(await carryOut(context, resource, run)) };
    },

    async getCachedUser({ userId, minRevision }, context) {
      const { message, isCopy } = await users.read(userId, context, { minRevision });
      return { user: message, fromCache: isCopy };
    },
  };
  return {
    handlers,
    async [Symbol.asyncDispose]() {
      await Promise.all([sessions, users].map(({ changes }) => changes[Symbol.asyncDispose]()));
    },
  };
}

/** The handlers of `DocumentCacheService`; disposing this ends what they follow. */
export interface CachedDocuments extends AsyncDisposable {
  readonly handlers: ServiceImpl<typeof DocumentCacheService>;
}

function listKeyOf(userId: string): string {
  return `${ownPrefixes.sessionsOf}${userId}`;
}

function ttlOf(ttl: Duration | undefined): number {
  return ttl === undefined ? usualTtlMs : Math.floor(durationMs(ttl));
}

/** The copies of sessions that these keys hold. A cluster as a whole can only be asked about one. */
async function describe(
  node: Redis | KeyAdminOptions["redis"]["client"],
  keys: readonly Buffer[],
): Promise<(MessageInitShape<typeof CachedSessionSchema> & { readonly userId: string })[]> {
  const replies = await askOfEach(node, keys, (asked, key) =>
    asked.hmget(key, "revision", "user", "expires").pttl(key),
  );
  return keys.flatMap((key, index) => {
    const [revision, userId, expires] = replies[2 * index] as (string | null)[]; // as HMGET replies
    const ttlMs = Number(replies[2 * index + 1]);
    if (typeof revision !== "string" || typeof expires !== "string" || ttlMs <= 0) return [];
    const sessionId = key.toString().slice(ownPrefixes.session.length);
    return [{ sessionId, userId: userId ?? "", revision: BigInt(revision), ttl: durationFromMs(ttlMs) }];
  });
}

import { randomUUID } from "node:crypto";

import type { Cluster, Redis } from "ioredis";

import { redisBytesScript, redisScript, serverTime } from "../../stores/redis-script.ts";
import { pause } from "../../stores/waiting.ts";
import type { FollowedChanges } from "./followed-changes.ts";

/** What is copied: bytes, and what is known of them. */
export interface Loaded {
  readonly bytes: Uint8Array;
  readonly revision: bigint;
  /** The user that lists of copies have it under. */
  readonly userId: string;
}

/** What a read of a copy gives; undefined bytes where nothing is there to be copied. */
export interface CopyRead {
  readonly bytes: Uint8Array;
  /** Whether it came from the cache. */
  readonly isCopy: boolean;
  /** Whether a copy is kept now. */
  readonly isKept: boolean;
}

/** How one document is read. */
export interface CopyRequest {
  readonly id: string;
  readonly ttlMs: number;
  /** Reads the document where no copy serves; undefined where there is none. */
  readonly load: () => Promise<Loaded | undefined>;
  /** Called before a copy is stored: what is to know of it. */
  readonly storing?: (loaded: Loaded) => Promise<unknown>;
  /** Whether a copy that is there is passed over. */
  readonly anew?: boolean;
  /** Revision that a copy must have at least; an older one is passed over. What is loaded may be older all the same. */
  readonly minRevision?: bigint;
  readonly signal: AbortSignal;
}

/** How long one loader has, and how long others wait for it before they read for themselves, in milliseconds. */
const loaderMs = 5000;
const patienceMs = 1000;
const waitMs = 20;

/**
 * A copy is a hash: `bytes`, `revision`, `user`, when it `began` to be loaded and when it `expires`, in milliseconds of the server's
 * clock. Beside it, who is loading now (`loader`, `since`, `until`), and `least`, the revision of a change that was seen: what is
 * older is not stored until no loader of then has any time left (`leastUntil`). A key that is not there has no loader, so there
 * is nothing that a change would have to keep out. A change also takes out what is newer: a restore takes revisions back, and
 * changes that another process has yet to see cost no more than loading again.
 */
const prelude = `
local time = ${serverTime}
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function number(field) return tonumber(redis.call('HGET', KEYS[1], field) or 0) end
local function lasts(ms) if redis.call('PTTL', KEYS[1]) < ms then redis.call('PEXPIRE', KEYS[1], ms) end end
`;

/**
 * ARGV: since when the caller has seen all changes (-1: it has not), its name as a loader, the least revision that it takes. Gives the
 * bytes, or what to do.
 */
const lookScript = `${prelude}
local since, began = tonumber(ARGV[1]), number('began')
-- What seems to be loaded later than now was loaded before the clock went back, at nobody knows which time of this one.
if since >= 0 and number('expires') > now and began > since and began <= now and number('revision') >= tonumber(ARGV[3]) then
  return {'copy', redis.call('HGET', KEYS[1], 'bytes')}
end
if number('until') > now then return {'wait'} end
redis.call('HSET', KEYS[1], 'loader', ARGV[2], 'since', now, 'until', now + ${loaderMs})
lasts(${2 * loaderMs})
return {'load'}
`;

/** ARGV: the loader, bytes, revision, user, time to live. Gives 1 where it is stored. */
const storeScript = `${prelude}
if redis.call('HGET', KEYS[1], 'loader') ~= ARGV[1] or number('until') <= now then return 0 end
local began = redis.call('HGET', KEYS[1], 'since')
redis.call('HDEL', KEYS[1], 'loader', 'since', 'until')
if number('leastUntil') > now and tonumber(ARGV[3]) < number('least') then return 0 end
redis.call('HSET', KEYS[1], 'bytes', ARGV[2], 'revision', ARGV[3], 'user', ARGV[4], 'began', began, 'expires', now + tonumber(ARGV[5]))
lasts(tonumber(ARGV[5]))
return 1
`;

/** ARGV: the loader. */
const giveUpScript = `
if redis.call('HGET', KEYS[1], 'loader') == ARGV[1] then redis.call('HDEL', KEYS[1], 'loader', 'since', 'until') end
return 0
`;

/** ARGV: the revision of a change. */
const changedScript = `${prelude}
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local revision = tonumber(ARGV[1])
if number('revision') ~= revision then redis.call('HDEL', KEYS[1], 'bytes', 'revision', 'user', 'began', 'expires') end
local least = number('leastUntil') > now and number('least') or 0
redis.call('HSET', KEYS[1], 'least', math.max(least, revision), 'leastUntil', now + ${2 * loaderMs})
lasts(${2 * loaderMs})
return 1
`;

/** ARGV: time to live. Gives the user where there is a copy. */
const touchScript = `${prelude}
if number('expires') <= now then return false end
redis.call('HSET', KEYS[1], 'expires', now + tonumber(ARGV[1]))
lasts(tonumber(ARGV[1]))
return redis.call('HGET', KEYS[1], 'user')
`;

const [look, store, giveUp, changed, touch] = [
  redisBytesScript(lookScript),
  redisScript(storeScript),
  redisScript(giveUpScript),
  redisScript(changedScript),
  redisScript(touchScript),
];

/**
 * Copies of documents of one kind, in keys of Redis that begin with `prefix`. A copy serves whoever has seen all changes since
 * before it was loaded, and thereby any that came after: so processes need not know of each other, and one that has just
 * begun, or has lost track, loads anew.
 */
export function copies({
  client,
  prefix,
  changes,
}: {
  readonly client: Redis | Cluster;
  readonly prefix: string;
  readonly changes: FollowedChanges;
}) {
  const keyOf = (id: string): string => `${prefix}${id}`;

  /** Loads as the one who does so for all. What becomes of the copy changes nothing for who wants to read. */
  const loadFor = async (loader: string, request: CopyRequest): Promise<CopyRead | undefined> => {
    const { id, ttlMs, load, storing } = request;
    let isKept = false;
    try {
      const loaded = await load();
      if (loaded === undefined) return undefined;
      isKept = await keep(loaded).catch(() => false);
      return { bytes: loaded.bytes, isCopy: false, isKept };
    } finally {
      if (!isKept) await giveUp(client, keyOf(id), [loader]).catch(() => 0);
    }

    async function keep(loaded: Loaded): Promise<boolean> {
      await storing?.(loaded);
      const stored = [loader, Buffer.from(loaded.bytes), String(loaded.revision), loaded.userId, ttlMs];
      return (await store(client, keyOf(id), stored)) === 1;
    }
  };

  const loadAlone = async ({ load }: CopyRequest): Promise<CopyRead | undefined> => {
    const loaded = await load();
    return loaded && { bytes: loaded.bytes, isCopy: false, isKept: false };
  };

  return {
    keyOf,

    /** Reads a document by its copy, or loads it; while Redis is away, it is loaded. */
    async read(request: CopyRequest): Promise<CopyRead | undefined> {
      const { id, signal, anew = false, minRevision = 0n } = request;
      const endsMs = performance.now() + patienceMs;
      const loader = randomUUID();
      for (;;) {
        const since = anew ? undefined : changes.since();
        const found = await look(client, keyOf(id), [since ?? -1, loader, String(minRevision)]).catch(() => undefined);
        if (found === undefined) return loadAlone(request);
        const [what, bytes] = found as [Buffer, Buffer?]; // as the script replies
        if (bytes !== undefined) return { bytes, isCopy: true, isKept: true };
        if (what.toString() === "load") return loadFor(loader, request);
        // Who cannot trust what another loads has nothing to wait for.
        if ((since === undefined && !anew) || performance.now() > endsMs) return loadAlone(request);
        await pause(waitMs, signal);
        signal.throwIfAborted();
      }
    },

    /** Keeps a copy for longer. Gives its user; undefined where there is no copy. */
    async touch(id: string, ttlMs: number): Promise<string | undefined> {
      const user = await touch(client, keyOf(id), [ttlMs]);
      return typeof user === "string" ? user : undefined;
    },

    /** Removes a copy, and has whoever is loading one not store it. */
    async remove(id: string): Promise<boolean> {
      const found = await client.hexists(keyOf(id), "bytes");
      await client.unlink(keyOf(id));
      return found === 1;
    },
  };
}

/** Takes out what is not what a change has made, and keeps out what is older. */
export async function takeOut(client: Redis | Cluster, key: string, revision: bigint): Promise<void> {
  await changed(client, key, [String(revision)]);
}

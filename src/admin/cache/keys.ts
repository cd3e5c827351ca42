import { isUtf8 } from "node:buffer";

import type { MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import type { Cluster, Redis } from "ioredis";

import { type CacheKeySchema, KeyOrigin } from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { fail } from "../../errors.ts";

/** A key as a request or a response names it. */
export type KeyName =
  | { readonly case: "key"; readonly value: string }
  | { readonly case: "rawKey"; readonly value: Uint8Array };

/** The bytes of a key that a request names. The rules of the contract let none through without one. */
export function bytesOfName(name: KeyName | { readonly case: undefined }): Buffer {
  if (name.case === undefined) throw new Error("A request names no key");
  return Buffer.from(name.value);
}

/** How a response names a key. */
export function nameOf(key: Buffer): KeyName {
  return isUtf8(key) ? { case: "key", value: key.toString() } : { case: "rawKey", value: key };
}

/** A key in a sentence, in metadata or in the audit log. */
export function textOfKey(key: Buffer): string {
  return isUtf8(key) ? key.toString() : `0x${key.toString("hex")}`;
}

/** What of the cache the audit log speaks of. */
export function keyResource(name: string) {
  return { type: "CacheKey", name };
}

// ---------------------------------------------------------------- the service's own keys

/** What the service's own keys begin with. */
export const ownPrefixes = {
  session: "lucid:copy:session:",
  sessionsOf: "lucid:copy:sessions:",
  user: "lucid:copy:user:",
  rateLimit: "lucid:rate:",
  lock: "lucid:lock:",
} as const;

const ownPrefix = Buffer.from("lucid:");
const copyPrefix = Buffer.from("lucid:copy:");

const origins: readonly (readonly [Buffer, KeyOrigin])[] = [
  [copyPrefix, KeyOrigin.COPY],
  // What other services of the platform keep; it goes with its document, as the document's proto says.
  [Buffer.from("lucid:session:"), KeyOrigin.COPY],
  [Buffer.from("lucid:user:"), KeyOrigin.COPY],
  [Buffer.from(ownPrefixes.rateLimit), KeyOrigin.RATE_LIMIT],
  [Buffer.from(ownPrefixes.lock), KeyOrigin.LOCK],
];

/** What a key is for. */
export function originOf(key: Buffer): KeyOrigin {
  return origins.find(([prefix]) => startsWith(key, prefix))?.[1] ?? KeyOrigin.UNSPECIFIED;
}

/** Whether the key is the service's to set, also where it has no use for it yet. */
export function isOwn(key: Buffer): boolean {
  return startsWith(key, ownPrefix);
}

/** Whether the key holds what this service has copied from MongoDB: a backup leaves it out, since it would come back stale. */
export function isOwnCopy(key: Uint8Array): boolean {
  return startsWith(key, copyPrefix);
}

function startsWith(key: Uint8Array, prefix: Buffer): boolean {
  return prefix.equals(key.subarray(0, prefix.length));
}

/** Whether losing the key would do harm. What is only a copy may go at any time. */
export function isProtected(key: Buffer): boolean {
  const origin = originOf(key);
  return origin !== KeyOrigin.UNSPECIFIED && origin !== KeyOrigin.COPY;
}

/** A refusal to do something to one of the service's own keys. */
export function keyProtected(key: Buffer): Error {
  return fail("CACHE_KEY_PROTECTED", "The key is the service's own, and changes with what it is for", {
    metadata: { key: textOfKey(key) },
  });
}

/** Says that a key is not there. */
export function keyNotFound(key: Buffer): Error {
  const name = textOfKey(key);
  return fail("CACHE_KEY_NOT_FOUND", `There is no key ${name}`, {
    metadata: { key: name },
    resource: keyResource(name),
  });
}

// ---------------------------------------------------------------- what a server knows of keys

/** A key that is there. */
export interface KeyFacts {
  readonly key: Buffer;
  readonly type: string;
  /** Undefined where it stays. */
  readonly ttlMs: number | undefined;
  readonly sizeBytes: number;
}

/** Keys that a server is sent commands about at once; it answers nobody else until it has done all of them. */
export const keysAtOnce = 25;

type Pipeline = ReturnType<Redis["pipeline"]>;

/** Asks what keys are; those that are not there are left out. A cluster as a whole can only be asked about one. */
export async function factsOf(node: Redis | Cluster, keys: readonly Buffer[]): Promise<KeyFacts[]> {
  const replies = await askOfEach(node, keys, (asked, key) => asked.type(key).pttl(key).memory("USAGE", key));
  return keys.flatMap((key, index) => {
    // As the commands answer; a key that vanishes between them has no time left, or no size.
    const [type, ttlMs, sizeBytes] = replies.slice(3 * index, 3 * index + 3) as [string, number, number | null];
    if (type === "none" || ttlMs === -2 || sizeBytes === null) return [];
    return [{ key, type, ttlMs: ttlMs === -1 ? undefined : ttlMs, sizeBytes }];
  });
}

/** Has `ask` put commands about each key into pipelines. Gives the replies in their order; rejects with the first refusal. */
export async function askOfEach(
  node: Redis | Cluster,
  keys: readonly Buffer[],
  ask: (asked: Pipeline, key: Buffer) => void,
): Promise<unknown[]> {
  const replies: unknown[] = [];
  for (let first = 0; first < keys.length; first += keysAtOnce) {
    const asked = node.pipeline();
    for (const key of keys.slice(first, first + keysAtOnce)) ask(asked, key);
    replies.push(...(await repliesOf(asked)));
  }
  return replies;
}

async function repliesOf(pipeline: Pipeline): Promise<unknown[]> {
  const replies = (await pipeline.exec()) ?? [];
  return replies.map(([error, reply]) => {
    if (error !== null) throw error;
    return reply;
  });
}

/** What is said of a key. */
export function keyMessage({ key, type, ttlMs, sizeBytes }: KeyFacts): MessageInitShape<typeof CacheKeySchema> {
  return {
    name: nameOf(key),
    type,
    ...(ttlMs !== undefined && { ttl: durationFromMs(ttlMs) }),
    sizeBytes: BigInt(sizeBytes),
    origin: originOf(key),
  };
}

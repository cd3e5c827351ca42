import { errors as searchErrors } from "@elastic/elasticsearch";
import {
  MongoClientClosedError,
  MongoCompatibilityError,
  MongoError,
  MongoNetworkError,
  MongoNotConnectedError,
  MongoOperationTimeoutError,
  MongoServerClosedError,
  MongoServerSelectionError,
  MongoTopologyClosedError,
} from "mongodb";

import { fail, type FailOptions } from "../errors.ts";
import { refusalOf } from "./search/requests.ts";
import { fileFailure } from "./volumes/failures.ts";

/** The stores, by the names that metadata and metrics use. */
export type StoreName = "mongodb" | "redis" | "search";

/** How the stores are called in sentences. */
export const storeTitles: Readonly<Record<StoreName, string>> = {
  mongodb: "MongoDB",
  redis: "Redis",
  search: "The search server",
};

/**
 * Turns a failure of a store into one that a caller can be told; returns anything else as it is, since it is a bug or a
 * failure already. Says no host, no credentials and no document; the original is the `cause`.
 */
export function translateStoreError(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  if (error instanceof MongoError) return mongodbFailure(error) ?? error;
  if (error instanceof searchErrors.ElasticsearchClientError) return searchFailure(error) ?? error;
  return redisFailure(error) ?? networkFailure(error) ?? signalFailure(error) ?? fileFailure(error) ?? error;
}

/** Codes of MongoDB's `error_codes.yml` that a caller can act on. */
const mongodbCodes = {
  // Time limits of statements, write concerns and transactions.
  late: "50 64 202 262 290 407",
  // The network, a shutdown, a primary that is gone or not yet there, too much load.
  away: "6 7 89 91 133 134 149 189 216 303 365 402 433 449 9001 10058 10107 11600 11602 13435 13436",
  // Locks, write conflicts, transactions that another one ended, data that moves between shards, index builds.
  conflict: "24 46 112 117 225 239 246 250 251 267 272 314 319 338 12586 12587",
  // CursorKilled and Interrupted: someone told the server to.
  stopped: "237 11601",
  invalid: "121",
  tooLarge: "116 10334 17280 17419 17420",
  // Not allowed; not possible on this server, or not as things are there; 40573: a change stream without a replica set.
  refused: "13 18 20 26 48 59 67 72 76 85 86 100 115 123 148 166 167 224 238 263 322 323 324 371 376 40573",
} as const;

type MongodbKind = keyof typeof mongodbCodes;

const mongodbKinds: ReadonlyMap<unknown, MongodbKind> = new Map(
  // The keys are those of the table.
  (Object.entries(mongodbCodes) as [MongodbKind, string][]).flatMap(([kind, codes]) =>
    codes.split(" ").map((code) => [Number(code), kind] as const),
  ),
);

function mongodbFailure(error: MongoError): unknown {
  if (error instanceof MongoOperationTimeoutError) return late("mongodb", error);
  if (isMongodbAway(error)) return away("mongodb", error);
  if (error instanceof MongoCompatibilityError) return refused("mongodb", error, "incompatible");
  const code = String(error.code);
  const options = about("mongodb", error, { server_code: code });
  switch (mongodbKinds.get(error.code) ?? (error.hasErrorLabel("TransientTransactionError") ? "conflict" : undefined)) {
    case "late":
      return late("mongodb", error);
    case "away":
      return away("mongodb", error);
    case "conflict":
      return conflict("mongodb", error, code);
    case "stopped":
      return fail("CANCELLED", "MongoDB was told to stop the operation", options);
    case "invalid":
      return fail("DOCUMENT_INVALID", "The collection's validator refused the document", options);
    case "tooLarge":
      return fail("DOCUMENT_INVALID", "The document would be larger than MongoDB stores", options);
    case "refused":
      return refused("mongodb", error, code);
    case undefined:
      return undefined;
  }
}

function isMongodbAway(error: MongoError): boolean {
  return (
    error instanceof MongoNetworkError ||
    error instanceof MongoServerSelectionError ||
    // Calls that wait for the same first connection as one that gave up, and calls while the process stops.
    error instanceof MongoTopologyClosedError ||
    error instanceof MongoServerClosedError ||
    error instanceof MongoClientClosedError ||
    error instanceof MongoNotConnectedError ||
    // The driver keeps the classes of its pool to itself.
    ["MongoWaitQueueTimeoutError", "MongoPoolClosedError"].includes(error.name) ||
    error.hasErrorLabel("SystemOverloadedError")
  );
}

/** First words of Redis' replies that a caller can act on. */
const redisAway = new Set([
  "LOADING",
  "MASTERDOWN",
  "CLUSTERDOWN",
  "TRYAGAIN",
  "MOVED",
  "ASK",
  "READONLY",
  "NOREPLICAS",
  "BUSY",
]);
const redisRefused = new Set(["NOAUTH", "NOPERM", "WRONGPASS", "DENIED", "OOM", "MISCONF", "NOPROTO"]);

/** How ioredis says that there is no connection. It exports no classes for these. */
const redisClosed =
  /^(?:Connection is closed\.|Reached the max retries per request limit|Command aborted due to connection close|Cluster is ended\.|None of startup nodes is available|Failed to refresh slots cache\.|Too many Cluster redirections)/;

function redisFailure(error: Error): unknown {
  if (error.message === "Command timed out") return late("redis", error);
  if (redisClosed.test(error.message)) return away("redis", error);
  if (error.name !== "ReplyError") return undefined;
  const [code = ""] = error.message.split(" ", 1);
  if (redisAway.has(code) || error.message.startsWith("ERR max number of clients")) return away("redis", error);
  if (redisRefused.has(code)) return refused("redis", error, code);
  // Another client has put something else under the key.
  if (code === "WRONGTYPE" || error.message.includes(" WRONGTYPE ")) return conflict("redis", error, code);
  if (/^ERR (?:unknown command|unknown subcommand|This instance has cluster support disabled)/i.test(error.message)) {
    return refused("redis", error, "UNKNOWN_COMMAND");
  }
  return undefined;
}

function searchFailure(error: searchErrors.ElasticsearchClientError): unknown {
  if (error instanceof searchErrors.TimeoutError) return late("search", error);
  if (error instanceof searchErrors.ConnectionError || error instanceof searchErrors.NoLivingConnectionsError) {
    return away("search", error);
  }
  if (error instanceof searchErrors.RequestAbortedError) {
    return fail("CANCELLED", "The call was cancelled", about("search", error));
  }
  if (!(error instanceof searchErrors.ResponseError)) return undefined;
  const status = error.statusCode ?? 0;
  if (status === 429) return busy(error);
  if ([408, 502, 503, 504].includes(status)) return away("search", error);
  if (status === 409) return conflict("search", error, String(status));
  if ([401, 403, 405, 501].includes(status) || isUnknownPath(error)) return refused("search", error, String(status));
  return undefined;
}

/** A server whose queues, memory or places for points in time are all taken says so at once. */
function busy(error: searchErrors.ResponseError): unknown {
  const { type, reason } = refusalOf(error);
  const isFull = reason.includes("too many Point In Time contexts");
  const message = isFull
    ? "The search server keeps as many points in time as it may; try again when some have ended"
    : "The search server has too much to do; try again later";
  const more = { server_code: type, ...(isFull && { exhausted: "points_in_time" }) };
  return fail("STORE_BUSY", message, { ...about("search", error, more), retryAfterMs: 5000 });
}

/** A server without a module answers 400 to the paths of it, and in another form than to a request that is wrong. */
function isUnknownPath({ body }: searchErrors.ResponseError): boolean {
  const message = typeof body === "object" && body !== null && "error" in body ? body.error : undefined;
  return typeof message === "string" && message.startsWith("no handler found for uri");
}

const networkCodes = new Set(
  "ECONNREFUSED ECONNRESET ECONNABORTED EPIPE ETIMEDOUT EHOSTUNREACH ENETUNREACH ENOTFOUND EAI_AGAIN".split(" "),
);

/** MongoDB's driver passes on as it is what a connection says that breaks just when a command is written to it. */
function networkFailure(error: Error): unknown {
  if (!("code" in error) || typeof error.code !== "string" || !networkCodes.has(error.code)) return undefined;
  return fail("STORE_UNAVAILABLE", "A store cannot be reached", { cause: error, retryAfterMs: 1000 });
}

/** An aborted signal has no store. Deadlines of callers come with a reason of their own. */
function signalFailure(error: Error): unknown {
  if (!(error instanceof DOMException)) return undefined;
  if (error.name === "TimeoutError")
    return fail("DEADLINE_EXCEEDED", "A store did not answer in time", { cause: error });
  if (error.name === "AbortError") return fail("CANCELLED", "The call was cancelled", { cause: error });
  return undefined;
}

function away(store: StoreName, cause: Error): unknown {
  const message = `${storeTitles[store]} cannot be reached`;
  return fail("STORE_UNAVAILABLE", message, { ...about(store, cause), retryAfterMs: 1000 });
}

function late(store: StoreName, cause: Error): unknown {
  return fail("DEADLINE_EXCEEDED", `${storeTitles[store]} did not answer in time`, about(store, cause));
}

function conflict(store: StoreName, cause: Error, code: string): unknown {
  const options = about(store, cause, { server_code: code });
  return fail("STORE_CONFLICT", "Another write got in the way; try again", { ...options, retryAfterMs: 100 });
}

function refused(store: StoreName, cause: Error, code: string): unknown {
  const message = `${storeTitles[store]} refused the operation`;
  return fail("STORE_REFUSED", message, about(store, cause, { server_code: code }));
}

function about(store: StoreName, cause: Error, more: Record<string, string> = {}): FailOptions {
  return { metadata: { store, ...more }, cause };
}

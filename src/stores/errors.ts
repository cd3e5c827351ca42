import { errors as searchErrors } from "@elastic/elasticsearch";
import {
  MongoError,
  MongoNetworkError,
  MongoOperationTimeoutError,
  MongoServerSelectionError,
  MongoTopologyClosedError,
} from "mongodb";

import { fail, type FailOptions } from "../errors.ts";

type StoreName = "mongodb" | "redis" | "search";

/** Codes of MongoDB's `error_codes.yml` that a caller can act on. */
const mongodbCodes = {
  timeLimit: new Set<unknown>([50, 202, 262]),
  away: new Set<unknown>([6, 7, 89, 91, 189, 9001, 10_107, 11_600, 11_602, 13_435, 13_436]),
  conflict: new Set<unknown>([24, 46, 112, 251]),
  invalid: new Set<unknown>([121]),
  refused: new Set<unknown>([13, 20, 26, 48, 59, 67, 72, 85, 86, 115, 238, 263, 303]),
};

/** Turns a failure of a store into one that a caller can be told; returns anything else as it is. Says no host and no document. */
export function translateStoreError(error: unknown): unknown {
  if (error instanceof MongoError) return mongodbFailure(error) ?? error;
  if (error instanceof Error) {
    // The Redis client exports no classes for its failures.
    if (error.name === "ReplyError") return redisFailure(error) ?? error;
    if (error.message === "Command timed out") return late("redis", error);
    if (error.name === "MaxRetriesPerRequestError" || error.message === "Connection is closed.")
      return away("redis", error);
  }
  return searchFailure(error) ?? error;
}

function mongodbFailure(error: MongoError): unknown {
  if (error instanceof MongoOperationTimeoutError || mongodbCodes.timeLimit.has(error.code))
    return late("mongodb", error);
  if (
    error instanceof MongoNetworkError ||
    error instanceof MongoServerSelectionError ||
    // Calls that wait for the same first connection as one that gave up.
    error instanceof MongoTopologyClosedError ||
    error.name === "MongoWaitQueueTimeoutError" ||
    mongodbCodes.away.has(error.code)
  ) {
    return away("mongodb", error);
  }
  const options = about("mongodb", error, { server_code: String(error.code) });
  if (mongodbCodes.conflict.has(error.code) || error.hasErrorLabel("TransientTransactionError")) {
    return fail("STORE_CONFLICT", "Another write got in the way; try again", { ...options, retryAfterMs: 100 });
  }
  if (mongodbCodes.invalid.has(error.code))
    return fail("DOCUMENT_INVALID", "The collection's validator refused the document", options);
  if (mongodbCodes.refused.has(error.code)) return fail("STORE_REFUSED", "MongoDB refused the operation", options);
  return undefined;
}

function redisFailure(error: Error): unknown {
  const [code = ""] = error.message.split(" ", 1);
  if (["LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "READONLY"].includes(code)) return away("redis", error);
  if (["NOAUTH", "NOPERM", "WRONGPASS", "OOM", "MISCONF"].includes(code)) {
    return fail("STORE_REFUSED", "Redis refused the operation", about("redis", error, { server_code: code }));
  }
  return undefined;
}

function searchFailure(error: unknown): unknown {
  if (error instanceof searchErrors.TimeoutError) return late("search", error);
  if (error instanceof searchErrors.ConnectionError || error instanceof searchErrors.NoLivingConnectionsError) {
    return away("search", error);
  }
  if (!(error instanceof searchErrors.ResponseError)) return undefined;
  const status = error.statusCode ?? 0;
  if ([429, 502, 503, 504].includes(status)) return away("search", error);
  const options = about("search", error, { server_code: String(status) });
  if ([401, 403, 405].includes(status))
    return fail("STORE_REFUSED", "The search server refused the operation", options);
  return undefined;
}

const names: Readonly<Record<StoreName, string>> = { mongodb: "MongoDB", redis: "Redis", search: "The search server" };

function away(store: StoreName, cause: unknown): unknown {
  return fail("STORE_UNAVAILABLE", `${names[store]} cannot be reached`, { ...about(store, cause), retryAfterMs: 1000 });
}

function late(store: StoreName, cause: unknown): unknown {
  return fail("DEADLINE_EXCEEDED", `${names[store]} did not answer in time`, about(store, cause));
}

function about(store: StoreName, cause: unknown, more: Record<string, string> = {}): FailOptions {
  return { metadata: { store, ...more }, cause };
}

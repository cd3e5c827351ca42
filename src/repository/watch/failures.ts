import type { ConnectError } from "@connectrpc/connect";
import { MongoServerError } from "mongodb";

import { fail, isReason } from "../../errors.ts";
import { translateStoreError } from "../../stores/errors.ts";

/**
 * How MongoDB says that a change stream cannot go on where it was: the token is none it knows, a fatal error, history lost; and an
 * event above 16 MB, where it sends none in parts.
 */
const lostCodes = new Set<number | string | undefined>([260, 280, 286, 10_334]);

/** How it says that there are no change streams. */
const unsupportedCode = 40_573;

/** Turns what a change stream ends with into what a watcher can be told. */
export function failureOf(error: unknown): unknown {
  if (error instanceof MongoServerError) {
    if (lostCodes.has(error.code)) return tokenTooOld(error);
    if (error.code === unsupportedCode) {
      const message = "MongoDB is a standalone server, which tells no changes; make it a replica set to watch";
      return fail("CHANGE_STREAMS_UNAVAILABLE", message, { metadata: { store: "mongodb" }, cause: error });
    }
  }
  return translateStoreError(error);
}

export function tokenTooOld(cause?: unknown): ConnectError {
  const message = "The history no longer has what follows; watch again without resume_token";
  return fail("WATCH_TOKEN_TOO_OLD", message, { ...withCause(cause) });
}

export function tokenInvalid(): ConnectError {
  const description = "must be the token of a watch with the same other fields";
  return fail("WATCH_TOKEN_INVALID", "The resume token is not one of this watch", {
    metadata: { fields: "resume_token" },
    fields: [{ field: "resume_token", description }],
  });
}

/** `token` goes on with what the watcher has not been told. */
export function watchTooSlow(token: string): ConnectError {
  const message = "Events come faster than the watch takes them; watch again with resume_token to go on";
  return fail("WATCH_TOO_SLOW", message, { metadata: { resume_token: token } });
}

/** The same; without a token the watch has told nothing that another could follow on. */
export function watchInterrupted(token?: string, cause?: unknown): ConnectError {
  return fail("WATCH_INTERRUPTED", "The watch was interrupted; watch again with resume_token to go on", {
    ...(token !== undefined && { metadata: { resume_token: token } }),
    retryAfterMs: 1000,
    ...withCause(cause),
  });
}

/** What a watcher is told of the end of what all follow. */
export function withToken(error: unknown, token: string): unknown {
  return isReason(error, "WATCH_INTERRUPTED") ? watchInterrupted(token, error) : error;
}

function withCause(cause: unknown): { cause?: unknown } {
  return cause === undefined ? {} : { cause };
}

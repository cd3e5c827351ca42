import { Code, ConnectError, type Interceptor, type StreamRequest, type UnaryRequest } from "@connectrpc/connect";

import { fail, reasonOf } from "../../errors.ts";
import type { ErrorLog } from "../listener.ts";

type Request = UnaryRequest | StreamRequest;

/**
 * Lets a caller know what it can act on and nothing else. `translate` turns a store's failure into one of these; whatever it
 * leaves as it is is a bug: logged with its stack, sent as INTERNAL without text.
 */
export function errorInterceptor(options: {
  readonly translate: (error: unknown) => unknown;
  readonly log: ErrorLog;
}): Interceptor {
  const told = (error: unknown, request: Request): ConnectError => {
    const translated = options.translate(causeOfAbort(error, request));
    if (translated instanceof ConnectError) return withReason(translated);
    const rpc = `${request.service.typeName}/${request.method.name}`;
    options.log.error({ err: error, rpc }, "A call failed unexpectedly");
    return fail("INTERNAL", "Something went wrong here", { cause: error });
  };
  return (next) => async (request) => {
    try {
      const response = await next(request);
      if (!response.stream) return response;
      return { ...response, message: guarded(response.message, (error) => told(error, request)) };
    } catch (error) {
      throw told(error, request);
    }
  };
}

async function* guarded<T>(messages: AsyncIterable<T>, told: (error: unknown) => ConnectError): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (error) {
    throw told(error);
  }
}

/** Work that was given the call's signal fails with an error of its own; why the signal was aborted says more. */
function causeOfAbort(error: unknown, request: Request): unknown {
  const isAbort = error instanceof Error && (error.name === "AbortError" || error.name === "TimeoutError");
  if (!isAbort || !request.signal.aborted) return error;
  const reason: unknown = request.signal.reason;
  // The HTTP listener gives no reason of its own where a client just left.
  return reason instanceof ConnectError ? reason : new ConnectError("The call was cancelled", Code.Canceled);
}

/** Cancellation and deadlines come from the HTTP listener without a reason. */
function withReason(error: ConnectError): ConnectError {
  if (reasonOf(error) !== undefined) return error;
  if (error.code === Code.Canceled) return fail("CANCELLED", "The call was cancelled", { cause: error });
  if (error.code === Code.DeadlineExceeded) {
    return fail("DEADLINE_EXCEEDED", "The deadline has passed", { cause: error });
  }
  return error;
}

import type { DescMessage } from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  type ConnectRouterOptions,
  createContextKey,
  type HandlerContext,
  type Interceptor,
} from "@connectrpc/connect";
import type { UniversalHandler, UniversalServerRequest, UniversalServerResponse } from "@connectrpc/connect/protocol";

import type { RequestRefusals } from "./request-refusals.ts";

/** How far Connect has come with a call. */
interface Progress {
  context?: HandlerContext;
  /** Whether its request was read, or is a stream that interceptors read. */
  hasBegun: boolean;
  /** What the call is answered with, its request unread. */
  refusal?: ConnectError;
}

const progressOf = createContextKey<Progress | undefined>(undefined, { description: "how far a call has come" });

/**
 * Has callers of Connect's handlers told in this service's words, with a reason, that a request cannot be read. Connect reads the one
 * request of a unary call before interceptors run, and calls what it finds there `internal` or `unknown`.
 */
export interface Reading {
  readonly requestGate: NonNullable<ConnectRouterOptions["requestGate"]>;
  /** To be the outermost one. */
  readonly interceptor: Interceptor;
  /** Calls a handler that has both. */
  answer(handler: UniversalHandler, request: UniversalServerRequest): Promise<UniversalServerResponse>;
}

export function reading(refusals: RequestRefusals): Reading {
  const refusalOf = (input: DescMessage, error: ConnectError): ConnectError | undefined => {
    const { code, rawMessage, cause } = error;
    if (code === Code.ResourceExhausted) return refusals.tooLarge();
    if (rawMessage === "decompression failed") return refusals.notCompressed(error);
    if (rawMessage.startsWith("parse binary") || (code === Code.InvalidArgument && cause !== undefined)) {
      return refusals.unreadable(input, error);
    }
    // Connect's own words about a frame or a header that its protocol does not allow.
    return code === Code.InvalidArgument ? refusals.notAllowed(error) : undefined;
  };
  async function* told<T>(input: DescMessage, messages: AsyncIterable<T>): AsyncGenerator<T> {
    try {
      yield* messages;
    } catch (error) {
      // What is no error of Connect's is one of the connection.
      throw (error instanceof ConnectError ? refusalOf(input, error) : undefined) ?? error;
    }
  }
  return {
    requestGate(context) {
      const progress = context.values.get(progressOf);
      if (progress === undefined) return;
      if (progress.refusal !== undefined) throw progress.refusal;
      progress.context = context;
    },
    interceptor: (next) => async (request) => {
      const progress = request.contextValues.get(progressOf);
      if (progress !== undefined) progress.hasBegun = true;
      if (!request.stream) return next(request);
      return next({ ...request, message: told(request.method.input, request.message) });
    },
    async answer(handler, request) {
      const progress: Progress = { hasBegun: false };
      request.contextValues?.set(progressOf, progress);
      const answer = await handler(request);
      // Connect ends the context of a call with what went wrong.
      const error: unknown = progress.context?.signal.reason;
      if (progress.hasBegun || error === undefined) return answer;
      const { input } = handler.method;
      // Base64 in the address of a GET is decoded without Connect's saying anything of it.
      const refusal = error instanceof ConnectError ? refusalOf(input, error) : refusals.unreadable(input, error);
      if (refusal === undefined) return answer;
      // Only Connect knows how each protocol tells of an error: its handler is run again, up to the gate.
      progress.refusal = refusal;
      return handler(request);
    },
  };
}

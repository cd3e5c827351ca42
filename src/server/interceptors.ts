import type { DescMessage, Message } from "@bufbuild/protobuf";
import { pathToString } from "@bufbuild/protobuf/reflect";
import { createValidator } from "@bufbuild/protovalidate";
import { Code, ConnectError, type Interceptor, type StreamRequest, type UnaryRequest } from "@connectrpc/connect";

import { fail, reasonOf } from "../errors.ts";

/** Where bugs are told. */
export interface ErrorLog {
  error(facts: object, message: string): void;
}

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
    const rpc = `${request.service.typeName}/${request.method.name}`;
    const translated = options.translate(error);
    if (translated instanceof ConnectError) return withReason(translated);
    options.log.error({ err: error, rpc }, "A call failed unexpectedly");
    return fail("INTERNAL", "Something went wrong here", { cause: error });
  };
  return (next) => async (request) => {
    try {
      const response = await next(request);
      if (!response.stream) return response;
      return { ...copied(response), message: guarded(response.message, (error) => told(error, request)) };
    } catch (error) {
      throw told(error, request);
    }
  };
}

/** The members of a response may be getters, which spreading it would miss. */
function copied<
  T extends { readonly stream: true; service: unknown; method: unknown; header: Headers; trailer: Headers },
>(response: T): T {
  const { stream, service, method, header, trailer } = response;
  // All members of a response but its message.
  return { stream, service, method, header, trailer } as T;
}

async function* guarded<T>(messages: AsyncIterable<T>, told: (error: unknown) => ConnectError): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (error) {
    throw told(error);
  }
}

/** Cancellation and deadlines come from both listeners without a reason. */
function withReason(error: ConnectError): ConnectError {
  if (reasonOf(error) !== undefined) return error;
  if (error.code === Code.Canceled) return fail("CANCELLED", "The call was cancelled", { cause: error });
  if (error.code === Code.DeadlineExceeded)
    return fail("DEADLINE_EXCEEDED", "The deadline has passed", { cause: error });
  return error;
}

/** Refuses requests that break a rule of their proto before a handler sees them, naming each field. */
export function validationInterceptor(): Interceptor {
  const validator = createValidator();
  const check = (schema: DescMessage, message: Message): void => {
    const result = validator.validate(schema, message);
    if (result.kind === "valid") return;
    if (result.kind === "error") throw result.error;
    const fields = result.violations.map((violation) => ({
      field: pathToString(violation.field),
      description: violation.message,
      reason: violation.ruleId.toUpperCase().replaceAll(/[^A-Z0-9]+/g, "_"),
    }));
    const paths = fields.map(({ field }) => field).join(", ");
    throw fail("BAD_REQUEST", `The request breaks a rule: ${paths}`, { metadata: { fields: paths }, fields });
  };
  async function* checked(schema: DescMessage, messages: AsyncIterable<Message>): AsyncGenerator<Message> {
    for await (const message of messages) {
      check(schema, message);
      yield message;
    }
  }
  return (next) => async (request) => {
    if (!request.stream) {
      check(request.method.input, request.message);
      return next(request);
    }
    return next(withMessages(request, checked(request.method.input, request.message)));
  };
}

/** The same request with other messages; what else it has is made when it is asked for. */
function withMessages(request: StreamRequest, message: AsyncIterable<Message>): StreamRequest {
  // A request's members may be getters on its class, so it is inherited from and not copied.
  return Object.create(request, { message: { value: message, enumerable: true } }) as StreamRequest;
}

import type { DescMessage, Message } from "@bufbuild/protobuf";
import type { Interceptor } from "@connectrpc/connect";

import { brokenRules } from "../../schema/rules.ts";

/** Refuses requests that break a rule of their proto before a handler sees them, naming each field. */
export function validationInterceptor(): Interceptor {
  return (next) => async (request) => {
    if (!request.stream) {
      check(request.method.input, request.message);
      return next(request);
    }
    return next({ ...request, message: checked(request.method.input, request.message) });
  };
}

function check(schema: DescMessage, message: Message): void {
  const refusal = brokenRules(schema, message);
  if (refusal !== undefined) throw refusal;
}

async function* checked(schema: DescMessage, messages: AsyncIterable<Message>): AsyncGenerator<Message> {
  for await (const message of messages) {
    check(schema, message);
    yield message;
  }
}

import type { DescMessage, Message } from "@bufbuild/protobuf";
import { pathToString } from "@bufbuild/protobuf/reflect";
import { createValidator } from "@bufbuild/protovalidate";
import type { Interceptor } from "@connectrpc/connect";

import { fail } from "../../errors.ts";

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
    return next({ ...request, message: checked(request.method.input, request.message) });
  };
}

import { type DescField, type DescMessage, type DescOneof, ScalarType } from "@bufbuild/protobuf";
import { isFieldError } from "@bufbuild/protobuf/reflect";
import type { ConnectError } from "@connectrpc/connect";

import { fail } from "../errors.ts";

/** What callers are told of requests that cannot be read. */
export interface RequestRefusals {
  /** Of bytes, or of JSON, that are not the message that the rpc takes. */
  unreadable(input: DescMessage, cause: unknown): ConnectError;
  /** Of compressed bytes that are none. */
  notCompressed(cause?: unknown): ConnectError;
  /** Of a message of more bytes than are taken, as it was sent or once it is decompressed. */
  tooLarge(): ConnectError;
  /** Of a frame or a header that the protocol does not allow, in the words of who reads the protocol. */
  notAllowed(error: ConnectError): ConnectError;
}

/** Refusals with a reason, as all others have one. */
export function requestRefusals(maxMessageBytes: number): RequestRefusals {
  return {
    unreadable,
    notCompressed: (cause) => fail("BAD_REQUEST", "The request cannot be decompressed", { cause }),
    tooLarge: () =>
      fail("MESSAGE_TOO_LARGE", `A message of a request has at most ${maxMessageBytes} bytes`, {
        metadata: { max_message_bytes: String(maxMessageBytes) },
      }),
    notAllowed: (error) => fail("BAD_REQUEST", error.rawMessage, { cause: error }),
  };
}

/** Says what message the request should be, and names the field where the decoder does. What the decoder says itself repeats values, which may be secret. */
export function unreadable(input: DescMessage, cause: unknown): ConnectError {
  const refusal = `The request is not a ${input.typeName}`;
  const field = fieldOf(cause);
  if (field === undefined) return fail("BAD_REQUEST", refusal + unknownKeyOf(cause), { cause });
  const name = `${field.parent.typeName}.${field.name}`;
  const description = `cannot be read as ${wanted(field)}`;
  return fail("BAD_REQUEST", `${refusal}: ${name} ${description}`, {
    cause,
    // The decoder does not say where in the request a field of another message is.
    ...(field.parent === input ? { fields: [{ field: field.name, description }] } : {}),
  });
}

/** A decoder of JSON tells the field in the first cause or in one behind it. */
function fieldOf(error: unknown): DescField | DescOneof | undefined {
  for (let found = error; found instanceof Error; found = found.cause) {
    if (isFieldError(found)) return found.field();
  }
  return undefined;
}

/** The decoder tells of a key that is no field in words alone. */
function unknownKeyOf(error: unknown): string {
  const [, key] = (error instanceof Error && /key ("[^"]*") is unknown$/.exec(error.message)) || [];
  return key === undefined ? "" : `: it has no field ${key}`;
}

function wanted(field: DescField | DescOneof): string {
  if (field.kind === "oneof") return "one of its members";
  if (field.fieldKind === "map") return "a map";
  const scalar = field.scalar === undefined ? "" : ScalarType[field.scalar].toLowerCase();
  return (field.fieldKind === "list" ? "a list of " : "") + (field.message?.typeName ?? field.enum?.typeName ?? scalar);
}

import type { DescMessage, Message } from "@bufbuild/protobuf";
import { pathToString } from "@bufbuild/protobuf/reflect";
import { createValidator } from "@bufbuild/protovalidate";
import type { ConnectError } from "@connectrpc/connect";

import { badRequest } from "./refusals.ts";

/** Patterns of our protos, and of nobody else. */
const patterns = new Map<string, RegExp>();

/**
 * The engine that protovalidate brings along takes 10 µs for a hash, which a transaction has half a dozen of: a third of what creating
 * one costs. It is safe with patterns of strangers; ours are few, anchored and bounded, which a test holds.
 */
function regexMatch(pattern: string, text: string): boolean {
  const known = patterns.get(pattern) ?? new RegExp(pattern, "u");
  patterns.set(pattern, known);
  return known.test(text);
}

/** What it compiles of a message's rules is kept, so one serves all. */
const validator = createValidator({ regexMatch });

/** A refusal travels in headers, of which some clients take 8 KiB: of many fields it names the first. */
const mostFields = 10;

/** Most characters of a path, which may have a key in it that the caller has made up. */
const mostOfPath = 120;

/** Why a message is refused by the rules of its proto, naming the fields; undefined where it keeps them. */
export function brokenRules(schema: DescMessage, message: Message): ConnectError | undefined {
  const result = validator.validate(schema, message);
  if (result.kind === "valid") return undefined;
  if (result.kind === "error") throw result.error;
  const fields = result.violations.slice(0, mostFields).map((violation) => ({
    field: shortened(pathToString(violation.field)),
    description: violation.message,
    reason: violation.ruleId.toUpperCase().replaceAll(/[^A-Z0-9]+/g, "_"),
  }));
  return badRequest(...fields);
}

function shortened(path: string): string {
  return path.length <= mostOfPath ? path : `${path.slice(0, mostOfPath)}…`;
}

import { type DescMessage, getOption } from "@bufbuild/protobuf";
import { field as fieldRules, type FieldRules } from "@bufbuild/protovalidate/gen/buf/validate/validate_pb.js";
import { expect, test } from "vitest";

import { cpuMsOf } from "../support/cpu.ts";
import { platformServices } from "../support/requests.ts";

/** The patterns of all fields of a message, and of the messages in it. */
function patternsOf(message: DescMessage, seen = new Set<DescMessage>()): string[] {
  if (seen.has(message)) return [];
  seen.add(message);
  return message.fields.flatMap((field) => [
    ...patternsIn(getOption(field, fieldRules)),
    ...(field.message === undefined ? [] : patternsOf(field.message, seen)),
  ]);
}

function patternsIn(rules: FieldRules | undefined): string[] {
  const type = rules?.type;
  if (type?.case === "string") return type.value.pattern === "" ? [] : [type.value.pattern];
  if (type?.case === "repeated") return patternsIn(type.value.items);
  return type?.case === "map" ? [...patternsIn(type.value.keys), ...patternsIn(type.value.values)] : [];
}

const patterns = new Set(
  platformServices().flatMap(({ methods }) => methods.flatMap(({ input }) => patternsOf(input))),
);

/** What makes careless patterns go back and forth: long runs of what they take, and an end that they do not. */
const hostile = ["a", "A", "0", "f", "1", "-a", "_A", "/0", ".a", ":0", "Ab1-"].flatMap((part) =>
  ["", "!", "\n"].map((end) => part.repeat(200_000) + end),
);

test("every pattern of a proto is anchored, and decides at once whatever it is given", () => {
  expect(patterns.size).toBeGreaterThan(15);
  for (const pattern of patterns) {
    expect(pattern).toMatch(/^\^.*\$$/s);
    const compiled = new RegExp(pattern, "u");
    const tried = () => {
      for (const text of hostile) compiled.test(text);
    };
    expect(cpuMsOf(tried), pattern).toBeLessThan(1000);
  }
});

import { create, type JsonObject } from "@bufbuild/protobuf";
import fc from "fast-check";
import { expect, test } from "vitest";

import { UserSchema } from "../../gen/lucid/repository/v1/user_pb.ts";
import { onlyWritable } from "../../src/schema/field-mask.ts";
import { everyKind, messagesOf } from "./every-kind.ts";

const Kinds = everyKind();

/** All objects in a value that could be changed; bytes are not changed by anybody. */
function objectsIn(value: unknown): object[] {
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return [];
  return [value, ...Object.values(value).flatMap(objectsIn)];
}

test("any message is copied as it is, and no change of the copy changes it", () => {
  fc.assert(
    fc.property(messagesOf(Kinds), (message) => {
      const copy = onlyWritable(Kinds, message);
      expect(copy).toStrictEqual(message);
      const own = new Set(objectsIn(message));
      expect(objectsIn(copy).filter((each) => own.has(each))).toEqual([]);
    }),
    { seed: 20_261, numRuns: 200 },
  );
});

test("a name of free data that means something to objects is copied as any other", () => {
  const metadata = JSON.parse('{"__proto__":{"deep":[1]},"constructor":"c"}') as JsonObject;
  const { metadata: copy } = onlyWritable(UserSchema, create(UserSchema, { metadata }));
  expect(JSON.stringify(copy)).toBe(JSON.stringify(metadata));
  expect(Object.getPrototypeOf(copy)).toBe(Object.prototype);
});

test("what only the service sets is left out of the copy, and stays in the message", () => {
  const user = create(UserSchema, { email: "a@example.com", revision: 7n });
  expect(onlyWritable(UserSchema, user)).toStrictEqual(create(UserSchema, { email: "a@example.com" }));
  expect(user.revision).toBe(7n);
});

import { create, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test } from "vitest";

import {
  BadRequestSchema,
  ErrorInfoSchema,
  ResourceInfoSchema,
  RetryInfoSchema,
} from "../gen/google/rpc/error_details_pb.ts";
import { fail, isReason, reasonOf } from "../src/errors.ts";

test("a failure carries its reason, fields and retry delay as details", () => {
  const error = fail("STORE_UNAVAILABLE", "MongoDB is away", {
    metadata: { store: "mongodb" },
    fields: [{ field: "user.email", description: "must be an address" }],
    retryAfterMs: 1500,
  });
  expect(error.code).toBe(Code.Unavailable);
  expect(error.findDetails(ErrorInfoSchema)).toMatchObject([
    { reason: "STORE_UNAVAILABLE", domain: "lucid", metadata: { store: "mongodb", registry_code: "LUCID_ERR_5001" } },
  ]);
  expect(error.findDetails(BadRequestSchema)).toMatchObject([{ fieldViolations: [{ field: "user.email" }] }]);
  expect(error.findDetails(RetryInfoSchema)).toMatchObject([{ retryDelay: { seconds: 1n, nanos: 500_000_000 } }]);
});

test("what a caller has made up is cut, so that a failure fits into headers", () => {
  const long = `${"x".repeat(255)}\u{1F600}`.repeat(100);
  const error = fail("USER_NOT_FOUND", `There is no user ${long}`, {
    metadata: { user_id: long },
    fields: [{ field: "user_id", description: `is ${long}` }],
    resource: { type: "User", name: long },
  });
  expect(error.rawMessage).toHaveLength(513);
  const { metadata } = error.findDetails(ErrorInfoSchema)[0] ?? {};
  // Half of a pair is no text.
  expect(metadata?.["user_id"]).toBe(`${"x".repeat(255)}\uFFFD…`);
  const [bad] = error.findDetails(BadRequestSchema);
  expect(bad?.fieldViolations[0]?.description).toHaveLength(257);
  expect(error.findDetails(ResourceInfoSchema)[0]?.resourceName).toHaveLength(257);
  // A token is this service's own, and of no use in part.
  const token = "t".repeat(2000);
  const ended = fail("WATCH_TOO_SLOW", "Slow", { metadata: { resume_token: token } });
  expect(reasonOf(ended)?.metadata).toEqual({ resume_token: token });
});

test("a reason is read from both ends of the wire", () => {
  const local = fail("USER_NOT_FOUND", "There is no such user", { metadata: { user_id: "u" } });
  const info = create(ErrorInfoSchema, { reason: "USER_NOT_FOUND", domain: "lucid", metadata: { user_id: "u" } });
  const received = new ConnectError("There is no such user", Code.NotFound);
  received.details.push({ type: ErrorInfoSchema.typeName, value: toBinary(ErrorInfoSchema, info) });
  for (const error of [local, received]) {
    expect(reasonOf(error)).toEqual({ reason: "USER_NOT_FOUND", metadata: { user_id: "u" } });
    expect(isReason(error, "USER_NOT_FOUND")).toBe(true);
  }
  expect(reasonOf(new Error("other"))).toBeUndefined();
});

test("a cause stays on this side", () => {
  const cause = new Error("mongodb://secret@host");
  const error = fail("INTERNAL", "Something went wrong", { cause });
  expect(error.cause).toBe(cause);
  expect(error.findDetails(ErrorInfoSchema)).toMatchObject([{ reason: "INTERNAL", metadata: {} }]);
  expect(error.details).toHaveLength(1);
  expect(error.rawMessage).not.toContain("secret");
});

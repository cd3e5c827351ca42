import { clone, create, equals, isMessage, toBinary, toJson } from "@bufbuild/protobuf";
import { FieldDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { expect, test } from "vitest";

import { type GetBackupRequest, GetBackupRequestSchema } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { encoded, encodedBytes } from "../../src/schema/encoded.ts";

const request = create(GetBackupRequestSchema, { backupId: "b-1" });
const bytes = toBinary(GetBackupRequestSchema, request);

test("an encoded message gives back its very bytes and is a message of its schema", () => {
  const message = encoded(GetBackupRequestSchema, bytes);
  expect(encodedBytes(message)).toBe(bytes);
  expect(isMessage(message, GetBackupRequestSchema)).toBe(true);
  expect(encodedBytes(request)).toBeUndefined();
});

test("an encoded message reads, compares and serialises like the message", () => {
  const message: GetBackupRequest = encoded(GetBackupRequestSchema, bytes);
  expect(message.backupId).toBe("b-1");
  expect(equals(GetBackupRequestSchema, message, request)).toBe(true);
  expect(toJson(GetBackupRequestSchema, message)).toEqual({ backupId: "b-1" });
  expect(toBinary(GetBackupRequestSchema, message)).toEqual(bytes);
  expect(clone(GetBackupRequestSchema, message)).toEqual(request);
  expect({ ...message }).toEqual({ ...request });
});

test("a field with presence that is zero is still set", () => {
  const field = create(FieldDescriptorProtoSchema, { name: "", number: 0 });
  const message = encoded(FieldDescriptorProtoSchema, toBinary(FieldDescriptorProtoSchema, field));
  expect(toJson(FieldDescriptorProtoSchema, message)).toEqual({ name: "", number: 0 });
});

test("bytes of no message are sent as they are, and throw when a field is read", async () => {
  const broken = Uint8Array.of(0x0a, 0xff);
  // A promise looks at what it is resolved with, which must not decode it.
  const message = await Promise.resolve(encoded(GetBackupRequestSchema, broken));
  expect(encodedBytes(message)).toBe(broken);
  expect(() => message.backupId).toThrow("premature EOF");
});

test("an encoded message cannot be changed, since that would not change what is sent", () => {
  const message = encoded(GetBackupRequestSchema, bytes);
  expect(() => {
    message.backupId = "b-2";
  }).toThrow(TypeError);
});

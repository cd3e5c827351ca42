import { randomBytes, randomUUID } from "node:crypto";

import { type DescMessage, toBinary, toJsonString } from "@bufbuild/protobuf";
import { expect, test } from "vitest";

import { UserCredentialsSchema } from "../../gen/lucid/repository/v1/user_credentials_pb.ts";
import { GetUserResponseSchema, UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { newUser, userInit, usersApp } from "./support.ts";

/** Every message that a message holds, itself included. */
function within(message: DescMessage, found = new Set<DescMessage>()): Set<DescMessage> {
  if (found.has(message)) return found;
  found.add(message);
  for (const { message: inner } of message.fields) if (inner !== undefined) within(inner, found);
  return found;
}

test("no rpc returns a message that holds secrets", () => {
  const returned = new Set(UserService.methods.flatMap(({ output }) => [...within(output)]));
  expect([...returned].map(({ typeName }) => typeName)).not.toContain(UserCredentialsSchema.typeName);
  const secret = [...returned].flatMap(({ fields }) => fields.filter(({ proto }) => proto.options?.debugRedact));
  expect(secret).toEqual([]);
});

test("secrets are stored apart, as they were given, and replaced as a whole", async () => {
  await using service = await usersApp();
  const { users, db } = service;
  const given = {
    passwordHash: randomBytes(32),
    salt: randomBytes(16),
    tronSignature: randomUUID(),
    apiKeys: [randomBytes(32)],
    totpSecret: randomBytes(20),
  };
  const { user } = await users.createUser({ user: userInit(), credentials: { ...given, userId: "another" } });
  const userId = user?.userId ?? "";
  const stored = async () =>
    db
      .collection("authentication")
      .findOne({ user_id: userId }, { projection: { _id: 0, _audit: 0 }, promoteBuffers: true });
  expect(await stored()).toEqual({
    user_id: userId,
    password_hash: given.passwordHash,
    salt: given.salt,
    tron_signature: given.tronSignature,
    api_keys: given.apiKeys,
    totp_secret: given.totpSecret,
    created_at: expect.any(Date) as Date,
    updated_at: expect.any(Date) as Date,
    revision: 1n,
  });
  const [document] = await db.collection("users").find({ user_id: userId }).toArray();
  for (const name of ["password_hash", "salt", "tron_signature", "api_keys", "totp_secret"])
    expect(document).not.toHaveProperty(name);

  await users.setUserCredentials({ userId, credentials: { passwordHash: Buffer.from("new") } });
  expect(await stored()).toMatchObject({ password_hash: Buffer.from("new"), revision: 2n });
  expect(await stored()).not.toHaveProperty("salt");
  expect(await stored()).not.toHaveProperty("totp_secret");

  const { userId: without } = await newUser(users);
  expect(await db.collection("authentication").countDocuments({ user_id: without })).toBe(0);
  await users.setUserCredentials({ userId: without, credentials: { salt: Buffer.from("s") } });
  expect(await db.collection("authentication").findOne({ user_id: without })).toMatchObject({ revision: 1n });

  const response = await users.getUser({ userId });
  const sent = [
    Buffer.from(toBinary(GetUserResponseSchema, response)),
    Buffer.from(toJsonString(GetUserResponseSchema, response)),
  ];
  for (const bytes of sent) {
    for (const secret of [given.passwordHash, given.salt, Buffer.from(given.tronSignature)])
      expect(bytes.includes(secret)).toBe(false);
  }
});

test("a user that was refused leaves no secrets behind", async () => {
  await using service = await usersApp();
  const { users, db } = service;
  const { email } = await newUser(users);
  await expect(
    users.createUser({ user: userInit({ email }), credentials: { salt: Buffer.from("s") } }),
  ).rejects.toThrow("already_exists");
  expect(await db.collection("authentication").countDocuments({})).toBe(0);
});

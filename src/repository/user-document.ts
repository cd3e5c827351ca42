import { createHash } from "node:crypto";

import { clone, create } from "@bufbuild/protobuf";
import { createBase58check } from "@scure/base";
import { type Document, serialize } from "bson";

import {
  type User,
  UserPreferencesSchema,
  UserRole,
  UserSchema,
  UserStatus,
} from "../../gen/lucid/repository/v1/user_pb.ts";
import { fail } from "../errors.ts";
import { codecFor } from "../schema/codec.ts";

const codec = codecFor(UserSchema);
const base58check = createBase58check((bytes: Uint8Array) => createHash("sha256").update(bytes).digest());

/** First byte of every TRON address of the main network, before its encoding. */
const tronVersion = 0x41;
const mostMetadataBytes = 256 * 1024;

/** Whether a text is a TRON address: base58 with a checksum that fits, of the main network's version and 20 bytes. */
export function isTronAddress(text: string): boolean {
  try {
    const bytes = base58check.decode(text);
    return bytes.length === 21 && bytes[0] === tronVersion;
  } catch {
    return false; // that is the answer
  }
}

/** The user that is stored for what a caller sent: keys in lower case, defaults where nothing is set. */
export function prepared(sent: User): User {
  const user = clone(UserSchema, sent);
  user.email = user.email.toLowerCase();
  if (user.username !== undefined) user.username = user.username.toLowerCase();
  if (user.role === UserRole.UNSPECIFIED) user.role = UserRole.USER;
  if (user.status === UserStatus.UNSPECIFIED) user.status = UserStatus.PENDING_VERIFICATION;
  const preferences = user.preferences ?? create(UserPreferencesSchema);
  preferences.language ??= "en";
  preferences.timezone ??= "UTC";
  preferences.emailNotifications ??= true;
  preferences.sessionNotifications ??= true;
  preferences.payoutNotifications ??= true;
  preferences.theme ??= "dark";
  preferences.autoAnchorSessions ??= true;
  user.preferences = preferences;
  return user;
}

/**
 * The document of a prepared user. Fails with `BAD_REQUEST` where what is needed is missing or a value is none that can be
 * stored; `isStored` says which top fields are, so that an update is not held to fields that it does not change.
 */
export function documentOf(user: User, isStored: (name: string) => boolean): Document {
  const wrong: { field: string; description: string }[] = [];
  if (isStored("email") && user.email === "") wrong.push({ field: "user.email", description: "must be set" });
  if (isStored("tron_address") && !isTronAddress(user.tronAddress)) {
    const description = user.tronAddress === "" ? "must be set" : "must be a TRON address with a valid checksum";
    wrong.push({ field: "user.tron_address", description });
  }
  const document = codec.encode(user, "user");
  const metadata: unknown = document["metadata"];
  if (isStored("metadata") && metadata !== undefined && serialize({ metadata }).length > mostMetadataBytes) {
    wrong.push({
      field: "user.metadata",
      description: `must take at most ${mostMetadataBytes} bytes when it is stored`,
    });
  }
  if (wrong.length > 0) {
    const fields = wrong.map(({ field }) => field).join(", ");
    throw fail("BAD_REQUEST", `The request breaks a rule: ${fields}`, { metadata: { fields }, fields: wrong });
  }
  return document;
}

import { create } from "@bufbuild/protobuf";
import type { Document } from "bson";

import {
  type User,
  UserPreferencesSchema,
  UserRole,
  UserSchema,
  UserStatus,
} from "../../gen/lucid/repository/v1/user_pb.ts";
import { codecFor } from "../schema/codec.ts";
import { badRequest, tooLarge, type WrongField } from "../schema/refusals.ts";
import { isTronAddress } from "../schema/tron-address.ts";

const codec = codecFor(UserSchema);

/** Makes a user, a copy of what a caller sent, the one that is stored: keys in lower case, defaults where nothing is set. */
export function prepared(user: User): User {
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
  const wrong: WrongField[] = [];
  if (isStored("email") && user.email === "") wrong.push({ field: "user.email", description: "must be set" });
  if (isStored("tron_address") && !isTronAddress(user.tronAddress)) {
    const description = user.tronAddress === "" ? "must be set" : "must be a TRON address with a valid checksum";
    wrong.push({ field: "user.tron_address", description });
  }
  const document = codec.encode(user, "user");
  if (isStored("metadata")) wrong.push(...tooLarge("user.metadata", document["metadata"]));
  if (wrong.length > 0) throw badRequest(...wrong);
  return document;
}

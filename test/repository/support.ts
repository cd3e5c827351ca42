import { createHash, randomBytes } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";
import { type Client, Code, ConnectError } from "@connectrpc/connect";
import { createBase58check } from "@scure/base";
import type { Db } from "mongodb";
import { expect } from "vitest";

import { BadRequestSchema } from "../../gen/google/rpc/error_details_pb.ts";
import type { User, UserSchema } from "../../gen/lucid/repository/v1/user_pb.ts";
import { UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { reasonOf } from "../../src/errors.ts";
import { domainCollections } from "../../src/repository/collections.ts";
import type { KeptCollections } from "../../src/repository/kept-collections.ts";
import type { Watches } from "../../src/repository/watch/watches.ts";
import { type TestApp, testApp } from "../support/app.ts";
import { uniqueName } from "../support/stores.ts";

/** The service with a domain database that tests can look into. */
export interface UsersApp extends AsyncDisposable {
  readonly app: TestApp;
  /** Clients of both listeners. */
  readonly users: Client<typeof UserService>;
  readonly overHttp: Client<typeof UserService>;
  readonly db: Db;
}

/** Settings that tests rely on. */
export const lockAfterFailures = 3;

export async function usersApp(environment: Readonly<Record<string, string>> = {}): Promise<UsersApp> {
  const name = uniqueName("users");
  const app = await testApp({
    LUCID_MONGODB_DATABASE: name,
    LUCID_LOCK_AFTER_FAILURES: String(lockAfterFailures),
    ...environment,
  });
  const db = app.mongodb.db(name, { useBigInt64: true });
  return {
    app,
    users: app.client(UserService),
    overHttp: app.http(UserService),
    db,
    async [Symbol.asyncDispose]() {
      await db.dropDatabase();
      await app[Symbol.asyncDispose]();
    },
  };
}

const base58check = createBase58check((bytes: Uint8Array) => createHash("sha256").update(bytes).digest());

/** The collections of the domain, waited for however long a busy server takes to make their indexes. */
export function patientCollections(db: Db): KeptCollections {
  return domainCollections(db, ({ name }) => expect.unreachable(name), { waitMs: 200_000 });
}

/** A TRON address that no other test has. */
export function tronAddress(version = 0x41, length = 20): string {
  return base58check.encode(Buffer.concat([Buffer.from([version]), randomBytes(length)]));
}

/** What a new user needs, with keys that no other test has. */
export function userInit(init: MessageInitShape<typeof UserSchema> = {}): MessageInitShape<typeof UserSchema> {
  return { email: `${randomBytes(8).toString("hex")}@example.com`, tronAddress: tronAddress(), ...init };
}

export async function newUser(
  users: Client<typeof UserService>,
  init: MessageInitShape<typeof UserSchema> = {},
): Promise<User> {
  const { user } = await users.createUser({ user: userInit(init) });
  if (user === undefined) throw new Error("No user was returned");
  return user;
}

/** For handlers of which nothing is watched. */
export const noWatches: Pick<Watches, "of"> = {
  of: () => ({ follow: notWatched, watch: notWatched }),
};

function notWatched(): never {
  throw new Error("Nothing is watched here");
}

/** What a caller is told when a call fails. */
export interface Refusal {
  readonly code: string;
  readonly reason: string | undefined;
  readonly metadata: Record<string, string> | undefined;
  readonly fields: readonly string[];
}

export async function refusalOf(call: Promise<unknown>): Promise<Refusal> {
  const error = await call.then(
    () => {
      throw new Error("The call succeeded");
    },
    (cause: unknown) => ConnectError.from(cause),
  );
  const [bad] = error.findDetails(BadRequestSchema);
  return {
    code: Code[error.code] ?? "",
    reason: reasonOf(error)?.reason,
    metadata: reasonOf(error)?.metadata,
    fields: bad?.fieldViolations.map(({ field }) => field) ?? [],
  };
}

import { randomBytes } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";

import { type User, UserRole, UserStatus } from "../../gen/lucid/repository/v1/user_pb.ts";
import {
  type ListUsersRequestSchema,
  UserSearchMode,
  type UserService,
} from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { refusalOf, tronAddress, type UsersApp, usersApp } from "./support.ts";

let service: UsersApp;
beforeAll(async () => {
  service = await usersApp();
});
afterAll(() => service[Symbol.asyncDispose]());

type ListRequest = MessageInitShape<typeof ListUsersRequestSchema>;

/** Reads a list to its end; `between` runs after each page. */
async function all(
  users: Client<typeof UserService>,
  request: ListRequest,
  between: () => Promise<void> = async () => {},
): Promise<User[]> {
  const found: User[] = [];
  let pageToken = "";
  do {
    const page = await users.listUsers({ ...request, pageToken });
    found.push(...page.users);
    pageToken = page.nextPageToken;
    if (pageToken !== "") await between();
  } while (pageToken !== "");
  return found;
}

/** Inserts stored users; a list does not care how they came there. */
async function insert(count: number, fields: (index: number) => object): Promise<string[]> {
  const documents = Array.from({ length: count }, (_, index) => ({
    user_id: randomBytes(8).toString("hex"),
    email: `${randomBytes(8).toString("hex")}@example.com`,
    tron_address: tronAddress(),
    role: "USER",
    status: "ACTIVE",
    created_at: new Date(Date.UTC(2020, 0, 1)),
    revision: 1n,
    ...fields(index),
  }));
  if (count > 0) await service.db.collection("users").insertMany(documents);
  return documents.map(({ user_id }) => user_id);
}

test("a list visits every user that stays exactly once, while others come and go", async () => {
  const collection = service.db.collection("users");
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        count: fc.integer({ min: 0, max: 40 }),
        // Few times, so that many users have the same and only their ids tell them apart.
        times: fc.integer({ min: 1, max: 5 }),
        pageSize: fc.integer({ min: 1, max: 9 }),
        orderBy: fc.constantFrom("", "created_at", "created_at desc", "email", "email desc"),
        status: fc.constantFrom(UserStatus.UNSPECIFIED, UserStatus.BANNED),
      }),
      async ({ count, times, pageSize, orderBy, status }) => {
        await collection.deleteMany({});
        const time = (index: number) => new Date(Date.UTC(2020, 0, 1 + (index % times)));
        const fields = (index: number) => ({ created_at: time(index), status: "BANNED" });
        const staying = await insert(count, fields);
        const going = await insert(count, fields);
        await insert(3, () => ({ status: "BANNED", deleted_at: new Date() }));
        const found = await all(service.users, { pageSize, orderBy, filter: { status } }, async () => {
          const gone = going.pop();
          if (gone !== undefined) await collection.deleteOne({ user_id: gone });
          await insert(1, () => fields(count));
        });
        const ids = found.map(({ userId }) => userId);
        expect(new Set(ids).size).toBe(ids.length);
        expect(staying.filter((id) => !ids.includes(id))).toEqual([]);
        const by = (user: User) => (orderBy.startsWith("email") ? user.email : Number(user.createdAt?.seconds));
        const descending = orderBy === "" || orderBy.endsWith("desc");
        for (const [index, user] of found.slice(1).entries()) {
          const previous = found[index] as User; // one before
          const [low, high] = descending ? [user, previous] : [previous, user];
          expect([by(low) < by(high), by(low) === by(high) && low.userId < high.userId]).toContain(true);
        }
      },
    ),
    { seed: 20_262, numRuns: 12 },
  );
});

test("a list is restricted by role, status, times and deletion, and counted alike", async () => {
  const { users, db } = service;
  await db.collection("users").deleteMany({});
  const day = (date: number) => new Date(Date.UTC(2021, 0, date));
  await insert(1, () => ({ email: "a", role: "ADMIN", status: "ACTIVE", created_at: day(1) }));
  await insert(1, () => ({ email: "b", role: "ADMIN", status: "BANNED", created_at: day(2) }));
  await insert(1, () => ({ email: "c", role: "USER", status: "ACTIVE", created_at: day(3) }));
  await insert(1, () => ({ email: "d", role: "USER", status: "ACTIVE", created_at: day(4), deleted_at: day(5) }));
  const at = (date: number, nanos = 0) => ({ seconds: BigInt(day(date).getTime() / 1000), nanos });
  const cases: readonly [ListRequest, string][] = [
    [{}, "cba"],
    [{ showDeleted: true }, "dcba"],
    [{ orderBy: "created_at" }, "abc"],
    [{ orderBy: " created_at  desc " }, "cba"],
    [{ filter: { role: UserRole.ADMIN } }, "ba"],
    [{ filter: { status: UserStatus.ACTIVE } }, "ca"],
    [{ filter: { role: UserRole.ADMIN, status: UserStatus.ACTIVE } }, "a"],
    [{ filter: { role: UserRole.SUPER_ADMIN } }, ""],
    [{ filter: { role: UserRole.USER }, showDeleted: true, orderBy: "email" }, "cd"],
    [{ filter: { createdFrom: at(2) } }, "cb"],
    [{ filter: { createdBefore: at(2) } }, "a"],
    [{ filter: { createdFrom: at(2), createdBefore: at(3) } }, "b"],
    [{ filter: { createdFrom: at(2, 1) } }, "c"],
    [{ filter: { createdBefore: at(2, 1) } }, "ba"],
    [{ filter: { role: UserRole.ADMIN, createdFrom: at(2) }, orderBy: "created_at" }, "b"],
  ];
  for (const [request, expected] of cases) {
    const found = await all(users, { ...request, pageSize: 1 });
    expect(found.map(({ email }) => email).join("")).toBe(expected);
    const { count } = await users.countUsers({ filter: request.filter, showDeleted: request.showDeleted ?? false });
    expect(count).toBe(BigInt(expected.length));
  }
});

test("a page has 50 users where no size is given, at most 1000, and fewer where they are large", async () => {
  const { users, db } = service;
  await db.collection("users").deleteMany({});
  await insert(1100, () => ({}));
  expect((await users.listUsers({})).users).toHaveLength(50);
  expect((await users.listUsers({ pageSize: 2_000_000_000 })).users).toHaveLength(1000);
  await db.collection("users").deleteMany({});
  await insert(40, () => ({ metadata: { text: "x".repeat(200_000) } }));
  const large = await users.listUsers({ pageSize: 40 });
  expect(large.users.length).toBeLessThan(20);
  expect(large.users.length).toBeGreaterThan(5);
  expect(await all(users, { pageSize: 40 })).toHaveLength(40);
});

test("the last page has no token, also where it is full", async () => {
  const { users, db } = service;
  await db.collection("users").deleteMany({});
  expect(await users.listUsers({})).toMatchObject({ users: [], nextPageToken: "" });
  await insert(4, () => ({}));
  const first = await users.listUsers({ pageSize: 2 });
  expect(first.nextPageToken).not.toBe("");
  expect((await users.listUsers({ pageSize: 2, pageToken: first.nextPageToken })).nextPageToken).toBe("");
});

test("a page token is of one query, says nothing and cannot be changed", async () => {
  const { users, db } = service;
  await db.collection("users").deleteMany({});
  await insert(5, () => ({ email: `secret${randomBytes(4).toString("hex")}@example.com` }));
  const request = { pageSize: 2, orderBy: "email", filter: { status: UserStatus.ACTIVE } };
  const { nextPageToken: pageToken } = await users.listUsers(request);
  expect((await users.listUsers({ ...request, pageToken, pageSize: 3 })).users).toHaveLength(3);
  expect(Buffer.from(pageToken, "base64url").toString("latin1")).not.toMatch(/secret|email|example/);
  const invalid = { code: "InvalidArgument", reason: "PAGE_TOKEN_INVALID", fields: ["page_token"] };
  for (const other of [
    { ...request, orderBy: "email desc" },
    { ...request, filter: {} },
    { ...request, filter: { status: UserStatus.ACTIVE, role: UserRole.USER } },
    { ...request, showDeleted: true },
  ]) {
    expect(await refusalOf(users.listUsers({ ...other, pageToken }))).toMatchObject(invalid);
  }
  expect(await refusalOf(users.searchUsers({ query: "secret", pageToken }))).toMatchObject(invalid);
  const bytes = Buffer.from(pageToken, "base64url");
  for (const at of [0, 15, 16, bytes.length - 1]) {
    const changed = Buffer.from(bytes);
    changed[at] = (changed[at] ?? 0) ^ 1;
    expect(await refusalOf(users.listUsers({ ...request, pageToken: changed.toString("base64url") }))).toMatchObject(
      invalid,
    );
  }
});

test("a search takes its text literally and finds it in each key", async () => {
  const { users, db } = service;
  await db.collection("users").deleteMany({});
  const address = tronAddress();
  await insert(1, () => ({ user_id: "1", email: "ada.lovelace+x@example.com", username: "countess" }));
  await insert(1, () => ({ user_id: "2", email: "adaxlovelace@example.com", username: "ada_l" }));
  await insert(1, () => ({ user_id: "3", email: "grace@example.com", tron_address: address }));
  await insert(1, () => ({ user_id: "4", email: "ada@example.org", deleted_at: new Date() }));
  const cases: readonly [string, UserSearchMode, string][] = [
    ["ada", UserSearchMode.UNSPECIFIED, "12"],
    ["ADA", UserSearchMode.PREFIX, "12"],
    ["ada.", UserSearchMode.PREFIX, "1"],
    ["ada.lovelace+X@", UserSearchMode.PREFIX, "1"],
    ["count", UserSearchMode.PREFIX, "1"],
    ["ounte", UserSearchMode.PREFIX, ""],
    ["ounte", UserSearchMode.SUBSTRING, "1"],
    ["love", UserSearchMode.SUBSTRING, "12"],
    [address.slice(0, 12), UserSearchMode.PREFIX, "3"],
    [address.slice(5, 20), UserSearchMode.SUBSTRING, "3"],
    [address.slice(0, 12).toLowerCase(), UserSearchMode.PREFIX, ""],
    [".*", UserSearchMode.PREFIX, ""],
    ["a|g", UserSearchMode.PREFIX, ""],
    ["(a+)+$", UserSearchMode.SUBSTRING, ""],
    ["[a-z]", UserSearchMode.PREFIX, ""],
    ["\\", UserSearchMode.PREFIX, ""],
    ["\\Qada\\E", UserSearchMode.PREFIX, ""],
    ["^ada", UserSearchMode.SUBSTRING, ""],
    ['{"$gt":""}', UserSearchMode.PREFIX, ""],
    ["ada\n", UserSearchMode.PREFIX, ""],
    ["é".repeat(127), UserSearchMode.SUBSTRING, ""],
  ];
  for (const [query, mode, expected] of cases) {
    const found: string[] = [];
    let pageToken = "";
    do {
      const page = await users.searchUsers({ query, mode, pageSize: 1, pageToken });
      found.push(...page.users.map(({ userId }) => userId));
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    expect([query, found.join("")]).toEqual([query, expected]);
  }
});

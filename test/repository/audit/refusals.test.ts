import type { Client } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";

import { AuditLogService } from "../../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import { newUser, refusalOf, type Refusal, type UsersApp, usersApp } from "../support.ts";

type Audit = Client<typeof AuditLogService>;

const bad = (...fields: string[]) => ({ code: "InvalidArgument", reason: "BAD_REQUEST", fields });
const missing = { code: "NotFound", reason: "AUDIT_RECORD_NOT_FOUND" };
const hash = "0".repeat(64);

/** What is refused, besides what the rules of single fields refuse. */
const refusals: readonly [string, (audit: Audit) => Promise<unknown>, Partial<Refusal>][] = [
  [
    "nobody's record",
    (audit) => audit.getAuditRecord({ auditId: "$where" }),
    { ...missing, metadata: { audit_id: "$where" } },
  ],
  ["half a resource", (audit) => audit.listAuditRecords({ filter: { resourceType: "User" } }), bad("filter")],
  ["a made-up status", (audit) => audit.listAuditRecords({ filter: { outcome: "ok" } }), bad("filter.outcome")],
  ["an order by a part", (audit) => audit.listAuditRecords({ orderBy: "actor.id, timestamp" }), bad("order_by")],
  ["an order without an index", (audit) => audit.listAuditRecords({ orderBy: "hash" }), bad("order_by")],
  [
    "a range and another order",
    (audit) => audit.listAuditRecords({ orderBy: "sequence", filter: { from: { seconds: 1n } } }),
    bad("order_by"),
  ],
  [
    "a made-up token",
    (audit) => audit.listAuditRecords({ pageToken: "abc" }),
    { code: "InvalidArgument", reason: "PAGE_TOKEN_INVALID", fields: ["page_token"] },
  ],
  [
    "going on after no record",
    (audit) => Array.fromAsync(audit.verifyAuditLog({ afterSequence: 1_000_000n })),
    { ...missing, metadata: { sequence: "1000000" } },
  ],
  [
    "a head that is not read",
    (audit) => Array.fromAsync(audit.verifyAuditLog({ afterSequence: 1n, expected: { sequence: 1n, hash } })),
    bad("expected.sequence"),
  ],
  [
    "a head that is none",
    (audit) => Array.fromAsync(audit.verifyAuditLog({ expected: { sequence: 1n, hash: "abc" } })),
    bad("expected.hash"),
  ],
];

let service: UsersApp;
beforeAll(async () => {
  service = await usersApp();
  await newUser(service.users);
});
afterAll(() => service[Symbol.asyncDispose]());

test.for(refusals)("%s is refused", async ([, call, expected]) => {
  const audit = service.app.client(AuditLogService);
  const { head } = await audit.getAuditHead({});
  for (const client of [audit, service.app.http(AuditLogService)]) {
    expect(await refusalOf(call(client))).toMatchObject(expected);
  }
  // Reading leaves no record, refused or not.
  expect((await audit.getAuditHead({})).head).toStrictEqual(head);
});

test("every filter, alone and with others, in both orders and over pages, finds what it means", async () => {
  const audit = service.app.client(AuditLogService);
  const { userId } = await newUser(service.users);
  await refusalOf(service.users.undeleteUser({ userId }));
  await service.users.deleteUser({ userId });
  const { records: all } = await audit.listAuditRecords({ pageSize: 1000 });
  const rpc = "lucid.repository.v1.UserService/UndeleteUser";
  const parts = {
    actor: { actorId: "anonymous" },
    rpc: { rpc },
    outcome: { outcome: "FAILED_PRECONDITION" },
    resource: { resourceType: "User", resourceName: userId },
    time: { from: { seconds: 1n }, before: { seconds: 9_999_999_999n } },
  };
  const names = Object.keys(parts) as (keyof typeof parts)[];
  for (let chosen = 0; chosen < 2 ** names.length; chosen++) {
    const meant = names.filter((_, index) => (chosen & (1 << index)) !== 0);
    const filter = Object.assign({}, ...meant.map((name) => parts[name])) as object;
    const expected = all.filter(
      (record) =>
        (!meant.includes("rpc") || record.rpc === rpc) &&
        (!meant.includes("outcome") || record.outcome === "FAILED_PRECONDITION") &&
        (!meant.includes("resource") || record.resource?.name === userId),
    );
    for (const orderBy of ["", "timestamp"]) {
      const found: string[] = [];
      let pageToken = "";
      do {
        const page = await audit.listAuditRecords({ filter, orderBy, pageSize: 2, pageToken });
        found.push(...page.records.map(({ auditId }) => auditId));
        pageToken = page.nextPageToken;
      } while (pageToken !== "");
      const ids = expected.map(({ auditId }) => auditId);
      expect(found, `${meant.join(" ")} ${orderBy}`).toEqual(orderBy === "" ? ids : ids.toReversed());
    }
  }
});

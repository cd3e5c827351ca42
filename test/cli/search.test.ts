import { once } from "node:events";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";

import { afterAll, beforeAll, expect, test } from "vitest";

import { UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { cuttable } from "../jobs/proxy.ts";
import { newUser } from "../repository/support.ts";
import { type TestApp, testApp } from "../support/app.ts";
import { lucid, type Lucid, lucidInside } from "./support.ts";

let app: TestApp;
let command: Lucid;

beforeAll(async () => {
  app = await testApp();
  command = lucidInside(app.grpcAddress);
});
afterAll(() => app[Symbol.asyncDispose]());

test("an index of an operator is made, filled, searched, copied and deleted", async () => {
  const mapping =
    '{"fields": {"title": {"type": "INDEX_FIELD_TYPE_TEXT"}, "kind": {"type": "INDEX_FIELD_TYPE_KEYWORD"}}}';
  const made = await command.run("index", "create", "notes", "--mapping", mapping, "--replicas", "0");
  expect([made.code, made.stderr]).toEqual([0, "Created notes.\n"]);
  const again = await command.run("index", "create", "notes");
  expect([again.code, again.stderr]).toEqual([3, expect.stringContaining("SEARCH_INDEX_ALREADY_EXISTS")]);
  const bulk = {
    index: "notes",
    operations: [
      { documentId: "1", document: { title: "the first \u001b[31mnote", kind: "a" } },
      { documentId: "2", document: { title: "the second note", kind: "b" } },
    ],
  };
  const filled = await command.json("call", "SearchIndexService/BulkIndex", "--data", JSON.stringify(bulk));
  expect(filled.objects).toMatchObject([{ createdCount: "2", failedCount: "0" }]);

  await expect
    .poll(async () => (await command.run("search", "count", "notes")).stdout, { timeout: 60_000 })
    .toBe("2\n");
  const [found, table, exported] = await Promise.all([
    command.json("search", "query", "notes", "first", "--where", "kind=a"),
    command.run("search", "query", "notes", "first"),
    command.json("search", "export", "notes"),
  ]);
  expect(found.objects).toMatchObject([{ id: "1", index: "notes", fields: { kind: "a" } }]);
  expect(table.stdout).toMatch(
    /^ID +INDEX +SCORE +FOUND IN\n1 +notes +\d+\.\d\d +title: the \[first\] \\x1b\[31mnote\n$/,
  );
  expect(exported.objects.map(({ id }) => id as string).toSorted()).toEqual(["1", "2"]);

  const [shown, listed, unknown, wrong] = await Promise.all([
    command.run("index", "show", "notes"),
    command.json("index", "ls", "--origin", "operator"),
    command.run("search", "query", "nowhere"),
    command.run("search", "query", "notes", "--filter", "{"),
  ]);
  expect(shown.stdout).toMatch(/title +text +-\n$/m);
  expect(listed.objects).toMatchObject([{ index: "notes", documentCount: "2" }]);
  expect([unknown.code, unknown.stderr]).toEqual([3, expect.stringContaining("`lucid index ls` shows what there is")]);
  expect([wrong.code, wrong.stderr]).toEqual([2, expect.stringMatching(/^lucid: --filter: /)]);

  expect((await command.run("index", "create", "copy", "--replicas", "0")).code).toBe(0);
  const copied = await command.json("index", "reindex", "notes", "copy", "--watch");
  expect([copied.code, copied.objects.at(-1)]).toEqual([0, expect.objectContaining({ state: "JOB_STATE_SUCCEEDED" })]);
  const jobs = await command.run("index", "job", "ls");
  expect(jobs.stdout).toMatch(/reindex +copy +succeeded/);

  const unconfirmed = await command.run("index", "rm", "notes");
  expect([unconfirmed.code, unconfirmed.stderr]).toEqual([3, expect.stringContaining("--yes")]);
  const removed = await Promise.all(["notes", "copy"].map((name) => command.run("index", "rm", name, "--yes")));
  expect(removed.map(({ code }) => code)).toEqual([0, 0]);
});

test("the indices that the service keeps follow, are compared and rebuilt", async () => {
  await using syncing = await testApp({ LUCID_SEARCH_SYNC: "on" });
  const there = lucid(syncing.grpcAddress);
  const user = await newUser(syncing.client(UserService));
  await expect
    .poll(async () => (await there.json("search", "query", "users", "--ids")).objects, { timeout: 60_000 })
    .toMatchObject([{ id: user.userId }]);
  const [status, letters, compared] = await Promise.all([
    there.json("index", "sync", "status", "users"),
    there.run("index", "dead-letters", "ls"),
    there.run("index", "compare", "users", "--wait"),
  ]);
  expect([status.code, status.objects]).toMatchObject([0, [{ index: "users", deadLetters: "0" }]]);
  expect([letters.stdout, letters.stderr]).toEqual(["", "There are none: search takes every document.\n"]);
  expect([compared.code, compared.stdout]).toEqual([0, expect.stringMatching(/compared +1 document\ndifferent +0\n/)]);

  const rebuilt = await there.run("index", "rebuild", "users", "--watch");
  expect([rebuilt.code, rebuilt.stdout]).toEqual([0, expect.stringMatching(/succeeded .* 100\.0 %/)]);
  const refused = await there.run("index", "rm", "users", "--yes");
  expect([refused.code, refused.stderr]).toEqual([3, expect.stringContaining("(SEARCH_INDEX_PROTECTED)")]);
  const back = await there.json("index", "rollback", "users", "--yes", "--watch");
  expect([back.code, back.objects.at(-1)]).toMatchObject([0, { state: "JOB_STATE_SUCCEEDED" }]);
});

test("a watch of users goes on behind the last event when its connection was cut", async () => {
  const users = app.client(UserService);
  await newUser(users);
  await using wire = await cuttable(`http://${app.grpcAddress}`);
  const child = lucid(new URL(wire.uri).host).start("watch", "users", "--json", "--count", "3");
  const said = text(child.stderr);
  const closed = once(child, "close");
  const types: string[] = [];
  for await (const line of createInterface({ input: child.stdout })) {
    const { type } = JSON.parse(line) as { type: string };
    types.push(type);
    if (type === "WATCH_EVENT_TYPE_CHECKPOINT" && types.length === 2) {
      wire.cut();
      await newUser(users);
      await Promise.race([wire.refused(), closed]);
      wire.mend();
      await newUser(users);
    }
  }
  expect((await closed)[0]).toBe(0);
  const told = types.filter((type) => type !== "WATCH_EVENT_TYPE_CHECKPOINT");
  expect(told).toEqual(["WATCH_EVENT_TYPE_EXISTING", "WATCH_EVENT_TYPE_CREATED", "WATCH_EVENT_TYPE_CREATED"]);
  expect(await said).toContain("The watch was cut off");
});

test("watches end by themselves, and tell where to go on", async () => {
  const [sessions, blocks, transactions, wrong] = await Promise.all([
    command.run("watch", "sessions", "--for", "1s"),
    command.run("watch", "blocks", "--after-height", "-1", "--for", "1s"),
    command.run("watch", "transactions", "--status", "pending", "--for", "1s"),
    command.run("watch", "users", "--resume", "x"),
  ]);
  expect([sessions.code, blocks.code, transactions.code]).toEqual([0, 0, 0]);
  expect([wrong.code, wrong.stderr]).toEqual([2, expect.stringContaining("(WATCH_TOKEN_INVALID)")]);
  const child = command.start("watch", "users");
  await once(child.stdout, "data");
  child.kill("SIGINT");
  const [said, [code]] = await Promise.all([text(child.stderr), once(child, "close")]);
  expect([code, said]).toEqual([130, expect.stringMatching(/^Go on with --resume \S+\n$/)]);
});

test("the audit log is listed and verified, and a head that is not its own is found out", async () => {
  await newUser(app.client(UserService));
  await expect
    .poll(
      async () => (await command.json("audit", "ls", "--rpc", "lucid.repository.v1.UserService/CreateUser")).objects,
      { timeout: 60_000 },
    )
    .toContainEqual(expect.objectContaining({ outcome: "OK" }));
  const head = (await command.run("audit", "head")).stdout.trim();
  expect(head).toMatch(/^\d+:[0-9a-f]{64}$/);
  const forged = head.replace(/:.*/, `:${"0".repeat(64)}`);
  const [whole, expected, wrong, usage] = await Promise.all([
    command.run("audit", "verify"),
    command.json("audit", "verify", "--expect", head),
    command.run("audit", "verify", "--expect", forged),
    command.run("audit", "verify", "--expect", "7"),
  ]);
  expect([whole.code, whole.stdout]).toEqual([0, expect.stringMatching(/^The log is whole/)]);
  expect(expected.objects.at(-1)).toMatchObject({ result: { whole: true } });
  expect([wrong.code, wrong.stdout]).toEqual([4, expect.stringContaining("not expected")]);
  expect(usage.code).toBe(2);
});

test("any call can be made, of any kind", async () => {
  const [services, methods, counted, watched, unknown, wrong] = await Promise.all([
    command.run("call"),
    command.json("call", "UserService"),
    command.json("call", "lucid.repository.v1.UserService/CountUsers"),
    command.run("call", "UserService/GetUser", "--data", '{"userId": "nobody"}'),
    command.run("call", "UserService/Nothing"),
    command.run("call", "UserService/GetUser", "--data", '{"nothing": 1}'),
  ]);
  expect(services.stdout).toContain("lucid.admin.v1.BackupService\n");
  expect(methods.objects).toContainEqual({ name: "UserService/GetUser" });
  expect(Number(counted.objects[0]?.["count"])).toBeGreaterThan(0);
  expect([watched.code, watched.stderr]).toEqual([3, expect.stringContaining("(USER_NOT_FOUND)")]);
  expect([unknown.code, wrong.code]).toEqual([2, 2]);
});

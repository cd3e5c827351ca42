import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";

import { afterAll, beforeAll, expect, test } from "vitest";

import { DocumentCacheService } from "../../gen/lucid/repository/v1/document_cache_service_pb.ts";
import { SessionService } from "../../gen/lucid/repository/v1/session_service_pb.ts";
import { cuttable } from "../jobs/proxy.ts";
import { ownFolder } from "../local/support.ts";
import { newSession } from "../repository/session-support.ts";
import { type TestApp, testApp } from "../support/app.ts";
import { uniqueName } from "../support/stores.ts";
import { lucid, type Lucid, lucidInside } from "./support.ts";

const folder = ownFolder();
let app: TestApp;
let command: Lucid;

beforeAll(async () => {
  app = await testApp({ LUCID_VOLUME_DIR: folder.path });
  command = lucidInside(app.grpcAddress);
});
afterAll(async () => {
  await app[Symbol.asyncDispose]();
  folder[Symbol.dispose]();
});

test("a collection is created, looked at, indexed, renamed and dropped", async () => {
  const database = app.databaseName();
  const there = ["--database", database];
  const validator = '{"$jsonSchema": {"required": ["title"]}}';
  expect((await command.run("collection", "create", "notes", ...there, "--validator", validator)).code).toBe(0);
  const notes = app.mongodb.db(database).collection("notes");
  await notes.insertMany([{ title: "one" }, { title: "two" }, { title: "two" }]);
  const [listed, shown, counted, valid, again, wrong] = await Promise.all([
    command.run("collection", "ls", ...there),
    command.json("collection", "show", "notes", ...there),
    command.run("collection", "count", "notes", ...there, "--filter", '{"title": "two"}'),
    command.json("collection", "validate", "notes", ...there),
    command.run("collection", "create", "notes", ...there),
    command.run("collection", "count", "notes", ...there, "--filter", "[]"),
  ]);
  expect(listed.stdout).toMatch(/^notes +collection +3 /m);
  expect(shown.objects).toMatchObject([
    { collection: "notes", validator: JSON.parse(validator) as object, protected: false },
  ]);
  expect([counted.stdout, valid.objects]).toEqual(["2\n", [expect.objectContaining({ valid: true })]]);
  expect([again.code, again.stderr]).toEqual([3, expect.stringContaining("(COLLECTION_ALREADY_EXISTS)")]);
  expect([wrong.code, wrong.stderr]).toEqual([2, "lucid: --filter: it is no object.\n"]);

  const built = await command.json("collection", "index", "create", "notes", "title:descending", ...there, "--watch");
  expect([built.code, built.objects.at(-1)]).toMatchObject([0, { state: "JOB_STATE_SUCCEEDED" }]);
  const indexes = await command.run("collection", "index", "ls", "notes", ...there);
  expect(indexes.stdout).toMatch(/^title_-1 +title:descending +-/m);
  const [twice, builds, kept] = await Promise.all([
    command.run("collection", "index", "create", "notes", "title", "--unique", ...there, "--watch"),
    command.json("collection", "build", "ls"),
    command.run("collection", "index", "rm", "notes", "title_-1", ...there),
  ]);
  expect([twice.code, twice.stdout + twice.stderr]).toEqual([
    expect.toBeOneOf([1, 3]),
    expect.stringContaining("INDEX_DUPLICATE_VALUES"),
  ]);
  expect(builds.objects.length).toBeGreaterThan(0);
  expect([kept.code, kept.stderr]).toEqual([3, expect.stringContaining("Repeat it with --yes")]);
  expect((await command.run("collection", "index", "rm", "notes", "title_-1", ...there, "--yes")).code).toBe(0);

  expect((await command.run("collection", "create", "old", ...there)).code).toBe(0);
  const replace = ["collection", "rename", "notes", "old", "--drop-target", ...there];
  const [asked, would] = await Promise.all([command.run(...replace), command.run(...replace, "--dry-run")]);
  expect([asked.code, asked.stderr]).toEqual([3, expect.stringContaining("This drops old with 0 documents; ")]);
  expect([would.code, would.stderr]).toEqual([0, expect.stringContaining("would drop old with 0 documents")]);
  expect((await command.run(...replace, "--yes")).code).toBe(0);
  const rebuild = await command.run("collection", "index", "rebuild", "old", ...there);
  // It asks only where the server can.
  expect([rebuild.code, rebuild.stderr]).toEqual([3, expect.stringMatching(/MONGODB_FEATURE_MISSING|--yes/)]);
  const dry = await command.run("collection", "rm", "old", ...there, "--dry-run");
  expect([dry.code, dry.stderr]).toEqual([0, "It would drop 3 documents.\n"]);
  expect((await command.run("collection", "rm", "old", ...there, "--yes")).stderr).toBe("Dropped 3 documents.\n");
});

test("what the service itself needs is refused, and stands as it must", async () => {
  // The service makes its collections beside its work; from here on they are there.
  const ensured = await command.run("collection", "ensure");
  const [refused, indexes] = await Promise.all([
    command.run("collection", "rm", "users", "--yes"),
    command.run("collection", "index", "ensure", "users", "--dry-run"),
  ]);
  expect([refused.code, refused.stderr]).toEqual([3, expect.stringContaining("(COLLECTION_PROTECTED)")]);
  expect([ensured.code, ensured.stdout]).toEqual([0, expect.stringMatching(/^users +validator +(created|existing)/m)]);
  expect([indexes.code, indexes.stdout]).toEqual([0, expect.stringMatching(/^users +email_1 /m)]);
});

test("keys are set, shown, listed, deleted and flushed", async () => {
  const prefix = uniqueName("cli");
  const [one, two] = [`${prefix}:one`, `${prefix}:two`];
  expect((await command.run("cache", "set", one, "a\u001b[2Jb", "--ttl", "10m")).code).toBe(0);
  expect((await command.run("cache", "set", two, "2")).code).toBe(0);
  const [shown, json, listed, taken, unconfirmed, absent] = await Promise.all([
    command.run("cache", "get", one),
    command.json("cache", "get", two),
    command.json("cache", "ls", `${prefix}:*`),
    command.run("cache", "set", one, "x", "--if", "absent"),
    command.run("cache", "flush", `${prefix}:*`),
    command.run("cache", "get", `${prefix}:three`),
  ]);
  expect(shown.stdout).toMatch(/^type +string\n(.*\n)*a\\x1b\[2Jb\n$/m);
  expect(json.objects).toMatchObject([{ key: { key: two, type: "string" }, string: { content: { json: 2 } } }]);
  expect(listed.objects.map(({ key }) => key as string).toSorted()).toEqual([one, two]);
  expect([taken.code, taken.stderr]).toEqual([3, expect.stringContaining("(CACHE_KEY_ALREADY_EXISTS)")]);
  expect([unconfirmed.code, absent.code]).toEqual([3, 3]);
  const bytes = join(folder.path, "bytes");
  writeFileSync(bytes, Buffer.from([0xff, 0x00, 0xfe]));
  expect((await command.run("cache", "set", one, `@${bytes}`)).code).toBe(0);
  const raw = await command.json("cache", "get", one, "--format", "base64");
  expect(raw.objects).toMatchObject([{ string: { content: { base64: "/wD+" } } }]);
  const removed = await command.run("cache", "rm", one, "--yes");
  expect(removed.stderr).toBe("Deleted 1 of 1 key.\n");
  const flushed = await command.json("cache", "flush", `${prefix}:*`, "--yes");
  expect([flushed.code, flushed.objects.at(-1)]).toMatchObject([0, { deletedCount: "1", done: true }]);
  const figures = await Promise.all(
    [["stats"], ["memory"], ["limit", "ls", "--prefix", prefix], ["lock", "ls", "--prefix", prefix]].map((args) =>
      command.run("cache", ...args),
    ),
  );
  expect(figures.map(({ code }) => code)).toEqual([0, 0, 0, 0]);
});

test("copies of sessions are listed, removed and cleared; the sessions stay", async () => {
  const sessions = app.client(SessionService);
  const copies = app.client(DocumentCacheService);
  const { sessionId, userId } = await newSession(sessions);
  const ofUser = ["--user", userId];
  await copies.createCachedSession({ sessionId });
  const listed = await command.run("cache", "session", "ls", ...ofUser);
  expect(listed.stdout).toMatch(new RegExp(`^${sessionId} +${userId} +1 +`, "m"));
  const removed = [];
  for (const _ of [1, 2]) removed.push((await command.run("cache", "session", "rm", sessionId)).stderr);
  expect(removed).toEqual(["Removed.\n", "There was no copy.\n"]);
  await copies.createCachedSession({ sessionId });
  expect((await command.run("cache", "session", "clear", ...ofUser)).stderr).toBe("Removed 1 copy.\n");
  expect((await sessions.getSession({ sessionId })).session?.sessionId).toBe(sessionId);
});

test("a name that nobody can type is typed as it is shown", async () => {
  await using terminal = command.inTerminal(["cache", "rm", `${uniqueName("cli")}\u001b[2J`]);
  await terminal.shows("to go on");
  const [shown = ""] = /\S+(?= to go on)/.exec(terminal.screen.lines().join("\n")) ?? [];
  expect(shown).toMatch(/\\x1b\[2J$/);
  terminal.type(`${shown}\r`);
  await terminal.shows("Deleted 0 of 1 key.");
  expect(await terminal.ended()).toBe(0);
});

test("a message reaches who listens, and cannot order its terminal about", async () => {
  const channel = uniqueName("cli");
  const child = command.start("cache", "subscribe", channel, "--count", "1");
  const said = Promise.all([text(child.stdout), text(child.stderr), once(child, "close")]);
  const reached = async () => (await command.json("cache", "publish", channel, "a\u001b[2Jb")).objects[0];
  await expect.poll(reached, { timeout: 60_000 }).toEqual({ receiverCount: "1" });
  const [stdout, , [code]] = await said;
  expect([code, stdout]).toEqual([0, `${channel}  a\\x1b[2Jb\n`]);
});

test("who listens goes on listening when the connection was cut, and is told of the gap", async () => {
  const channel = uniqueName("cli");
  await using wire = await cuttable(`http://${app.grpcAddress}`);
  const child = lucid(new URL(wire.uri).host).start("cache", "subscribe", channel, "--count", "1");
  let remarks = "";
  child.stderr.on("data", (data: Buffer) => (remarks += data.toString()));
  const said = text(child.stdout);
  const closed = once(child, "close");
  await expect.poll(() => remarks, { timeout: 60_000 }).toContain("It is subscribed.");
  wire.cut();
  await wire.refused();
  wire.mend();
  const publish = async () => {
    await command.run("cache", "publish", channel, "hello");
    return child.exitCode;
  };
  await expect.poll(publish, { timeout: 60_000 }).toBe(0);
  await closed;
  expect(await said).toBe(`${channel}  hello\n`);
  expect(remarks).toContain("what is sent until it is there again is lost");
});

test("a server without shards says so", async () => {
  const [status, sharded] = await Promise.all([
    command.run("shard", "status"),
    command.run("shard", "collection", "notes", "title:hashed", "--yes"),
  ]);
  expect([status.code, status.stderr]).toEqual([3, expect.stringContaining("(MONGODB_NOT_SHARDED)")]);
  expect(sharded.code).toBe(3);
});

test("a volume is made, measured, cleaned up and deleted", async () => {
  const made = await command.json("volume", "create", "recordings", "--type", "sessions", "--size", "1GiB");
  expect(made.objects).toMatchObject([
    { name: "recordings", type: "VOLUME_TYPE_SESSIONS", declaredBytes: String(2 ** 30) },
  ]);
  mkdirSync(join(folder.path, "recordings", "deep"));
  writeFileSync(join(folder.path, "recordings", "deep", "a\u001b[2J.log"), "x".repeat(5000));
  const usage = await command.run("volume", "usage", "recordings", "--max-age", "0s");
  const [health, report, performance] = await Promise.all([
    command.run("volume", "health", "recordings"),
    command.run("volume", "report", "recordings"),
    command.json("volume", "performance", "recordings", "--bytes", "1MiB"),
  ]);
  expect(usage.stdout).toMatch(/used +4\.9 KiB\n/);
  expect([health.code, report.stdout]).toEqual([0, expect.stringContaining("a\\x1b[2J.log")]);
  expect(Number(performance.objects[0]?.["writtenBytes"])).toBeGreaterThan(0);
  const [resized, small, listed] = await Promise.all([
    command.run("volume", "resize", "recordings", "2GiB"),
    command.run("volume", "show", "nowhere"),
    command.run("volume", "ls"),
  ]);
  expect([resized.code, small.code]).toEqual([0, 3]);
  expect(listed.stdout).toMatch(/^recordings +sessions /m);
  const cleaned = await command.run(
    "volume",
    "clean-up",
    "recordings",
    "--older-than",
    "0s",
    "--glob",
    "*.log",
    "--yes",
  );
  expect(cleaned.stderr).toBe("Removed 1 file, 4.9 KiB.\n");
  const copied = await command.json("volume", "migrate", "recordings", "archive", "--watch");
  expect([copied.code, copied.objects.at(-1)]).toMatchObject([0, { state: "JOB_STATE_SUCCEEDED" }]);
  const unmoved = await command.run("volume", "migrate", "recordings", "other", "--move");
  expect([unmoved.code, unmoved.stderr]).toEqual([3, expect.stringContaining("Repeat it with --yes")]);
  const unconfirmed = await command.run("volume", "rm", "recordings");
  expect([unconfirmed.code, unconfirmed.stderr]).toEqual([3, expect.stringContaining("Repeat it with --yes")]);
  expect((await command.run("volume", "rm", "recordings", "--yes")).code).toBe(0);
});

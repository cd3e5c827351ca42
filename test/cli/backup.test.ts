import { once } from "node:events";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";

import { afterAll, beforeAll, expect, test } from "vitest";

import { BackupService, JobState } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { waitUntil } from "../../local/wait.ts";
import { cuttable } from "../jobs/proxy.ts";
import { type TestApp, testApp } from "../support/app.ts";
import { lucid, type Lucid, lucidInside } from "./support.ts";

/** Enough for a backup to take a moment. */
const documents = 20_000;

let app: TestApp;
let command: Lucid;
let database: string;
/** A database of a few documents, for what need not take a moment. */
let small: string;

beforeAll(async () => {
  app = await testApp();
  command = lucidInside(app.grpcAddress);
  database = app.databaseName();
  const numbers = Array.from({ length: documents }, (_, number) => ({ _id: number, text: `document ${number}` }));
  await app.mongodb.db(database).collection<{ _id: number }>("numbers").insertMany(numbers);
  small = app.databaseName();
  await app.mongodb.db(small).collection<{ _id: number }>("numbers").insertMany(numbers.slice(0, 1200));
});
afterAll(() => app[Symbol.asyncDispose]());

const selected = () => ["--store", "mongodb", "--namespace", database];
const selectedFew = () => ["--store", "mongodb", "--namespace", small];

/** Waits until no job of backups runs: the tests share a repository, and one that is written to is not deleted from. */
async function quiet(backupId: string): Promise<void> {
  const ended = async () => {
    const { backup } = await app.client(BackupService).getBackup({ backupId });
    return backup !== undefined && backup.state >= JobState.SUCCEEDED;
  };
  expect(await waitUntil(ended, { withinMs: 120_000 })).toBe(true);
}

test("a backup is taken, shown, verified, restored under another name, and deleted", async () => {
  const taken = await command.json(
    "backup",
    "create",
    ...selectedFew(),
    "--description",
    "of\u001bthe test",
    "--watch",
  );
  expect([taken.code, taken.stderr]).toEqual([0, ""]);
  const told = taken.objects.flatMap(({ event }) =>
    event === undefined ? [] : [event as { sequence: string; state: string; heartbeat?: true }],
  );
  // On a busy machine a backup takes long enough for some.
  const events = told.filter(({ heartbeat }) => heartbeat !== true);
  expect(events.map(({ sequence }) => Number(sequence))).toEqual(events.map((_, index) => index + 1));
  expect(events.at(-1)?.state).toBe("JOB_STATE_SUCCEEDED");
  const { backupId = "", itemCount } = taken.objects.at(-1) as { backupId?: string; itemCount?: string };
  expect(itemCount).toBe("1200");

  const [listed, table, shown] = await Promise.all([
    command.json("backup", "ls", "--state", "succeeded", "--after", "1h"),
    command.run("backup", "ls"),
    command.run("backup", "show", backupId),
  ]);
  expect(listed.objects).toMatchObject([
    { backupId, state: "JOB_STATE_SUCCEEDED", storedBytes: expect.stringMatching(/^\d+$/) as unknown },
  ]);
  expect(table.stdout).toMatch(new RegExp(`${backupId} +succeeded .* 1,200 .* MongoDB +of\\\\x1bthe test`));
  expect(shown.stdout).toMatch(/items +1,200\n/);

  const verified = await command.run("backup", "verify", backupId, "--watch");
  expect(verified.stdout.trimEnd().split("\n").at(-1)).toMatch(/succeeded .* 100\.0 % +1,200 of 1,200 items/);
  expect(verified.code).toBe(0);

  const target = app.databaseName();
  const rename = ["--rename", `mongodb:${small}=${target}`];
  const restored = await command.run("backup", "restore", backupId, ...selectedFew(), ...rename, "--watch");
  expect(restored.stdout).toMatch(new RegExp(`MongoDB +${small}.numbers +${target}.numbers +1,200 +1,200 +0 +yes`));
  expect(restored.code).toBe(0);
  expect(await app.mongodb.db(target).collection("numbers").countDocuments()).toBe(1200);

  const again = await command.run("backup", "restore", backupId, ...selectedFew(), ...rename, "--dry-run");
  expect(again.code).toBe(3);
  expect(again.stderr).toMatch(/\(RESTORE_CONFLICT\)\.\nRestore under another name/);
  const unconfirmed = await command.run(
    "backup",
    "restore",
    backupId,
    ...selectedFew(),
    ...rename,
    "--conflict",
    "drop",
  );
  expect([unconfirmed.code, unconfirmed.stdout]).toEqual([3, ""]);
  const replaced = await command.run(
    "backup",
    "restore",
    backupId,
    ...selectedFew(),
    ...rename,
    "--conflict",
    "drop",
    "--yes",
    "--watch",
  );
  expect([replaced.code, replaced.stdout]).toEqual([0, expect.stringContaining("succeeded")]);
  const restores = await command.json("restore", "ls", "--backup", backupId);
  expect(restores.objects).toHaveLength(2);
  const { restoreId } = restores.objects[0] as { restoreId: string };
  const [late, report] = await Promise.all([
    command.run("restore", "cancel", restoreId),
    command.json("restore", "show", restoreId),
  ]);
  expect([late.code, late.stderr]).toEqual([3, expect.stringContaining("(JOB_ALREADY_FINISHED)")]);
  expect(report.objects).toMatchObject([{ restoreId, report: [{ equal: true }] }]);

  const refused = await command.run("backup", "rm", backupId);
  expect([refused.code, refused.stderr]).toEqual([3, expect.stringContaining("Repeat it with --yes")]);
  const dry = await command.json("backup", "rm", backupId, "--dry-run");
  expect(Number(dry.objects[0]?.["freedBytes"])).toBeGreaterThan(0);
  await using terminal = command.inTerminal(["backup", "rm", backupId]);
  await terminal.shows(`Type ${backupId} to go on`);
  terminal.type(`${backupId}\r`);
  expect(await terminal.ended()).toBe(0);
  expect(terminal.screen.lines().at(-1)).toMatch(/^Deleted; freed .* KiB\.$/);
  expect((await command.run("backup", "show", backupId)).code).toBe(3);
});

test("a name that is typed wrongly, or not at all, changes nothing", async () => {
  const { stdout } = await command.run("backup", "create", ...selectedFew());
  const backupId = stdout.trim();
  await quiet(backupId);
  for (const [keys, exitCode, says] of [
    ["something else\r", 3, "nothing was changed"],
    ["\u0003", 130, ""],
  ] as const) {
    await using terminal = command.inTerminal(["backup", "rm", backupId]);
    await terminal.shows("to go on");
    terminal.type(keys);
    expect(await terminal.ended()).toBe(exitCode);
    expect(terminal.screen.lines().join("\n")).toContain(says);
    expect(terminal.screen.isCursorShown).toBe(true);
  }
  expect((await command.run("backup", "show", backupId)).code).toBe(0);
});

test("on a terminal a backup is drawn in place until it has ended", async () => {
  await using terminal = command.inTerminal(["backup", "create", ...selected(), "--watch"]);
  await terminal.shows(/^█+░* +\d+\.\d %/);
  expect(await terminal.ended()).toBe(0);
  const lines = terminal.screen.lines();
  expect(lines[0]).toMatch(/^Backup [0-9a-f-]{36}: succeeded$/);
  expect(lines[1]).toMatch(/^█{30} 100\.0 %$/);
  expect(lines[2]).toMatch(/^ {2}MongoDB +20,000 of +20,000 items +[\d.]+ [KM]iB$/);
  // Whatever was drawn before is drawn over: the bar is there once.
  expect(lines.filter((line) => line.includes("█"))).toHaveLength(1);
  expect([terminal.screen.wasCursorHidden, terminal.screen.isCursorShown]).toEqual([true, true]);
});

test("Ctrl-C leaves the backup running, says so, and gives the cursor back", async () => {
  await using terminal = command.inTerminal(["backup", "create", ...selected(), "--watch"]);
  await terminal.shows(/░/);
  const [, backupId = ""] = /^Backup ([0-9a-f-]{36}):/.exec(terminal.screen.lines()[0] ?? "") ?? [];
  terminal.type("\u0003");
  expect(await terminal.ended()).toBe(130);
  expect(terminal.screen.isCursorShown).toBe(true);
  expect(terminal.screen.lines().join("")).toContain(`The backup goes on: \`lucid backup watch ${backupId}\` shows it`);
  await quiet(backupId);
  const { code, stdout } = await command.run("backup", "watch", backupId);
  expect([code, stdout]).toEqual([0, expect.stringMatching(/succeeded .* 100\.0 %/)]);
});

test("a watch goes on by itself where it was, when its connection was cut", async () => {
  await using wire = await cuttable(`http://${app.grpcAddress}`);
  const { host } = new URL(wire.uri);
  const child = lucid(host).start("backup", "create", ...selected(), "--watch", "--json");
  const said = text(child.stderr);
  const closed = once(child, "close");
  const sequences: number[] = [];
  let last = "";
  for await (const line of createInterface({ input: child.stdout })) {
    const { event } = JSON.parse(line) as { event?: { sequence: string; state: string } };
    if (event === undefined) continue;
    sequences.push(Number(event.sequence));
    last = event.state;
    if (sequences.length === 1) {
      wire.cut();
      await Promise.race([wire.refused(), closed]);
      wire.mend();
    }
  }
  expect((await closed)[0]).toBe(0);
  expect(await said).toMatch(/Trying to reach the service again …\nThe service is back\.\n$/);
  expect(sequences).toEqual(sequences.map((_, index) => index + 1));
  expect(last).toBe("JOB_STATE_SUCCEEDED");
});

test("a watch gives up when the service stays away, and says how to go on", async () => {
  const watched = async () => {
    await using wire = await cuttable(`http://${app.grpcAddress}`);
    const { host } = new URL(wire.uri);
    const id = (await command.run("backup", "create", ...selected())).stdout.trim();
    const child = lucid(host).start("backup", "watch", id, "--give-up", "200ms");
    const said = text(child.stderr);
    await once(child.stdout, "data");
    wire.cut();
    const [code] = (await once(child, "close")) as [number];
    await quiet(id);
    return { id, code, said: await said };
  };
  let given = await watched();
  // A backup that has ended before the wire is cut leaves nothing to give up.
  for (let attempt = 1; given.code === 0 && attempt < 5; attempt++) given = await watched();
  expect(given.code).toBe(1);
  expect(given.said).toMatch(
    new RegExp(`could not be reached again.*\\nGo on with \`lucid backup watch ${given.id} --after \\d+\``),
  );
});

import { mkdir, writeFile } from "node:fs/promises";
import { availableParallelism, loadavg } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { parseArgs } from "node:util";

import { type Client, createClient } from "@connectrpc/connect";
import { MongoClient } from "mongodb";

import { BackupService, type JobEvent, JobState } from "../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../gen/lucid/admin/v1/common_pb.ts";
import { VolumeType } from "../gen/lucid/admin/v1/volume_pb.ts";
import { MigrationMode, VolumeService } from "../gen/lucid/admin/v1/volume_service_pb.ts";
import { runInForeground } from "../local/foreground.ts";
import { startMongodb } from "../local/mongodb.ts";
import { Complaint, runCommand, say } from "../local/project.ts";
import { namedStores } from "../local/stores.ts";
import { type ServiceProcess, startService } from "./support/service-process.ts";
import { printTable } from "./support/table.ts";
import { throwawayDatabases, throwawayFolder } from "./support/throwaway.ts";

const databaseName = "bench_volume";
const systemName = "bench_volume_system";
/** Nobody listens there: the stores that this is not about are away. */
const nowhere = "127.0.0.1:1";
const filesInDirectory = 200;
const declaredBytes = 1n << 50n;

/** A volume of many small files, measured, backed up, restored and copied, beside what the tools of the system take for the same. */
await runCommand(async () => {
  const { values } = parseArgs({ options: { files: { type: "string", default: "200000" } } });
  const files = Number(values.files);
  if (!(files >= 1)) throw new Complaint("The number of files must be 1 or more");
  const named = namedStores(process.env).mongodbUri;
  await using server = named === undefined ? await startMongodb() : undefined;
  const uri = named ?? server?.uri ?? "";
  await using stack = new AsyncDisposableStack();
  const { path: dir } = stack.use(await throwawayFolder("bench-volume"));
  const mongodb = stack.use(await MongoClient.connect(uri));
  stack.use(await throwawayDatabases(mongodb, [databaseName, systemName]));
  const root = join(dir, "volumes");
  await mkdir(root);
  const keyFile = join(dir, "key");
  await writeFile(keyFile, "a key that is long enough for a benchmark");

  await using service = await startService({
    LUCID_MONGODB_URI: uri,
    LUCID_MONGODB_DATABASE: databaseName,
    LUCID_MONGODB_SYSTEM_DATABASE: systemName,
    LUCID_REDIS_URI: `redis://${nowhere}`,
    LUCID_SEARCH_URI: `http://${nowhere}`,
    LUCID_SEARCH_SYNC: "off",
    LUCID_BACKUP_DIR: join(dir, "repository"),
    LUCID_BACKUP_KEY_FILE: keyFile,
    LUCID_VOLUME_DIR: root,
    LUCID_VOLUME_MEASURE_MINUTES: "0",
    LUCID_JOB_LEASE_MS: "60000",
  });
  const volumes = createClient(VolumeService, service.transport);
  const backups = createClient(BackupService, service.transport);
  await volumes.createVolume({ volume: { name: "many", type: VolumeType.CHUNKS, declaredBytes } });
  await fill(join(root, "many"), files);
  await backups.listBackups({}); // it has opened what it needs

  const idle = await idleBytes(service);
  const run = measuring(service, idle);
  // Once before, so that all of them find what they read in the memory of the operating system.
  await tool("find", [join(root, "many"), "-size", "+1c", "-newer", keyFile, "-fprint", "/dev/null"]);
  const walked = await timed(() =>
    tool("find", [join(root, "many"), "-size", "+1c", "-newer", keyFile, "-fprint", "/dev/null"]),
  );
  const peer = join(dir, "peer");
  const copied = await timed(() => tool("cp", ["-a", join(root, "many"), peer]));
  const compared = await timed(() => tool("diff", ["-r", join(root, "many"), peer]));
  // A file system takes much longer to remove what is on its device, as what a move removes is, than what never got there.
  const synced = await timed(() => tool("sync", ["-f", peer]));
  const removed = await timed(() => tool("rm", ["-r", peer]));
  const [copiedWell, moved] = [copied + compared, copied + compared + synced + removed];

  const rows = [
    await run("measured, every file", walked, "find", () => measure(volumes, files)),
    await run("measured again", walked, "find", () => measure(volumes, files)),
    await run("backed up", copied, "cp -a", () => backUp(backups)),
    await run("backed up again, unchanged", copied, "cp -a", () => backUp(backups)),
    await run("restored and compared", copiedWell, "cp -a, diff -r", () => restore(backups)),
    await run("migrated, as a copy", copiedWell, "cp -a, diff -r", () => migrate(volumes, MigrationMode.COPY)),
    await run("migrated, as a move", moved, "cp -a, diff -r, sync -f, rm -r", () =>
      migrate(volumes, MigrationMode.MOVE),
    ),
  ];
  printTable(`A volume of ${files} files of 0 to 4 KB (${machine()})`, [
    ["", "seconds", "ratio", "peer", "MiB above idle", "target"],
    ["find", (walked / 1000).toFixed(1), "1.00", "", "", ""],
    ["cp -a", (copied / 1000).toFixed(1), "1.00", "", "", ""],
    ["diff -r", (compared / 1000).toFixed(1), "1.00", "", "", ""],
    ["sync -f", (synced / 1000).toFixed(1), "1.00", "", "", ""],
    ["rm -r", (removed / 1000).toFixed(1), "1.00", "", "", ""],
    ...rows,
  ]);
});

async function fill(folder: string, files: number): Promise<void> {
  say(`Writing ${files} files …`);
  const text = Buffer.from("A line of text that is like any other, and says where it stands. ".repeat(70));
  for (let from = 0; from < files; from += filesInDirectory) {
    const directory = join(folder, String(from % 97), String(from));
    await mkdir(directory, { recursive: true });
    const some = Array.from({ length: Math.min(filesInDirectory, files - from) }, (_, index) => from + index);
    await Promise.all(
      some.map(async (file) => {
        const content = Buffer.concat([Buffer.from(`${file} `), text.subarray(0, (file * 7919) % 4000)]);
        await writeFile(join(directory, String(file)), content);
      }),
    );
  }
}

async function tool(file: string, args: readonly string[]): Promise<void> {
  const code = await runInForeground(file, [...args]);
  if (code !== 0) throw new Complaint(`${file} ended with ${code}`);
}

async function timed(work: () => Promise<void>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}

function measuring(service: ServiceProcess, idle: number) {
  return async (what: string, peerMs: number, peer: string, work: () => Promise<void>): Promise<readonly string[]> => {
    service.forgetPeak();
    const ms = await timed(work);
    const above = ((service.peakBytes() - idle) / 2 ** 20).toFixed(0);
    say(`${what}: ${(ms / 1000).toFixed(1)} s, ${above} MiB above idle`);
    return [what, (ms / 1000).toFixed(1), (ms / peerMs).toFixed(2), peer, above, "≤ 150"];
  };
}

async function measure(volumes: Client<typeof VolumeService>, files: number): Promise<void> {
  const asked = { name: "many", maxAge: { seconds: 0n }, budget: { seconds: 300n } };
  const { usage, measuring: isUnderWay } = await volumes.getVolumeUsage(asked, { timeoutMs: 300_000 });
  if (usage?.fileCount !== BigInt(files) || isUnderWay) throw new Error(`It counted ${usage?.fileCount} files`);
}

async function backUp(backups: Client<typeof BackupService>): Promise<void> {
  const { backup } = await backups.createBackup({ selection: { stores: [Store.VOLUMES], volumes: ["many"] } });
  await succeeded(backups.watchBackup({ backupId: backup?.backupId ?? "" }));
}

async function restore(backups: Client<typeof BackupService>): Promise<void> {
  const [backup] = (await backups.listBackups({})).backups;
  const renames = [{ store: Store.VOLUMES, from: "many", to: "restored" }];
  const { restore: asked } = await backups.createRestore({ backupId: backup?.backupId ?? "", renames });
  await succeeded(backups.watchRestore({ restoreId: asked?.restoreId ?? "" }));
}

/** A move has everything on the device before it removes anything. */
async function migrate(volumes: Client<typeof VolumeService>, mode: MigrationMode): Promise<void> {
  const name = "many";
  const { job } = await volumes.migrateVolume({ name, targetName: `to-${mode}`, mode, confirmName: name });
  let last: JobState | undefined;
  for await (const { state } of volumes.watchVolumeJob({ jobId: job?.jobId ?? "" })) last = state;
  if (last !== JobState.SUCCEEDED) throw new Error("The migration did not succeed");
}

async function succeeded(events: AsyncIterable<{ event?: JobEvent | undefined }>): Promise<void> {
  let last: JobEvent | undefined;
  for await (const { event } of events) last = event;
  if (last?.state === JobState.SUCCEEDED) return;
  throw new Error(`A job did not succeed: ${last?.error?.reason}, ${last?.error?.message}`);
}

/** The least within some seconds, since starting leaves garbage behind that goes when V8 likes. */
async function idleBytes(service: ServiceProcess): Promise<number> {
  let least = service.residentBytes();
  for (let sample = 0; sample < 50; sample++) {
    await pause(100);
    least = Math.min(least, service.residentBytes());
  }
  return least;
}

function machine(): string {
  return `${availableParallelism()} cores, load ${loadavg()[0]?.toFixed(1)}, Node ${process.versions.node}`;
}

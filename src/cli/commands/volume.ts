import { randomUUID } from "node:crypto";

import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { type Command, Option } from "commander";

import {
  type Volume,
  VolumeLevelSchema,
  VolumeSchema,
  type VolumeType,
  VolumeTypeSchema,
} from "../../../gen/lucid/admin/v1/volume_pb.ts";
import {
  CleanUpVolumeResponseSchema,
  DeleteVolumeResponseSchema,
  GetVolumeGrowthResponseSchema,
  GetVolumeHealthResponseSchema,
  GetVolumeReportResponseSchema,
  GetVolumeUsageResponseSchema,
  MeasureVolumePerformanceResponseSchema,
  OptimiseVolumeResponseSchema,
  type VolumeEntry,
  VolumeService,
  VolumeStatus,
  VolumeStatusSchema,
  type VolumeWindow,
  VolumeWindowSchema,
} from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import { enumOption } from "../choices.ts";
import { withExamples } from "../examples.ts";
import { showList, withLimit } from "../lists.ts";
import type { Column, Style } from "../output.ts";
import type { Session } from "../session.ts";
import {
  bytes,
  count,
  counted,
  duration,
  many,
  nameOf,
  nothing,
  readNumber,
  readSize,
  readSpan,
  time,
} from "../units.ts";
import { levelStyle, volumeColumns } from "../volumes.ts";

/** `lucid volume …`. */
export function define(volume: Command, session: Session): void {
  defineVolumes(volume, session);
  defineMeasures(volume, session);
  defineCare(volume, session);
}

function defineVolumes(volume: Command, session: Session): void {
  const client = () => session.client(VolumeService);

  withExamples(
    withLimit(volume.command("ls"))
      .description("List volumes with their sizes")
      .addOption(enumOption("--type <type>", "only those of this type", VolumeTypeSchema))
      .action(async ({ limit, type }: { limit: number; type?: VolumeType }) => {
        await showList(session, {
          schema: VolumeSchema,
          limit,
          columns: volumeColumns,
          none: "There are no volumes; `lucid volume create` makes one.",
          async page(page) {
            const request = { ...page, ...(type !== undefined && { type }) };
            const { volumes, nextPageToken } = await client().listVolumes(request, session.call());
            return { items: volumes, nextPageToken };
          },
        });
      }),
    "lucid volume ls",
  );

  withExamples(
    named(volume.command("show"))
      .description("Show one volume")
      .action(async (name: string) => {
        const { volume: shown } = await client().getVolume({ name }, session.call());
        await showVolume(session, shown);
      }),
    "lucid volume show recordings",
  );

  withExamples(
    withLevels(named(volume.command("create")))
      .description("Make a volume: a folder below the root of volumes")
      .addOption(enumOption("--type <type>", "what it is for", VolumeTypeSchema))
      .addOption(
        new Option("--size <size>", "how large it may become, for example 500MiB; 0 means no limit").argParser(
          readSize,
        ),
      )
      .option("--adopt", "take a folder that is there, with what is in it")
      .action(async (name: string, options: Levels & { type?: VolumeType; size?: bigint; adopt?: boolean }) => {
        const { type, size, adopt = false, warning, critical, description } = options;
        const init = {
          name,
          ...(type !== undefined && { type }),
          ...(size !== undefined && { declaredBytes: size }),
          ...(warning !== undefined && { warningPercent: warning }),
          ...(critical !== undefined && { criticalPercent: critical }),
          ...(description !== undefined && { description }),
        };
        const request = { volume: init, adopt, requestId: randomUUID() };
        const { volume: made } = await client().createVolume(request, session.call());
        await showVolume(session, made);
      }),
    "lucid volume create recordings --type sessions --size 10GiB",
  );

  withExamples(
    withLevels(named(volume.command("update")))
      .description("Change what is said of a volume")
      .action(async (name: string, { warning, critical, description }: Levels) => {
        const given = { warning_percent: warning, critical_percent: critical, description };
        const paths = Object.entries(given).flatMap(([path, value]) => (value === undefined ? [] : [path]));
        const init = {
          name,
          ...(warning !== undefined && { warningPercent: warning }),
          ...(critical !== undefined && { criticalPercent: critical }),
          ...(description !== undefined && { description }),
        };
        const request = { volume: init, updateMask: { paths } };
        const { volume: changed } = await client().updateVolume(request, session.call());
        await showVolume(session, changed);
      }),
    "lucid volume update recordings --warning 70 --description 'of the review'",
  );

  withExamples(
    named(volume.command("resize"))
      .description("Change how large a volume may become")
      .argument("<size>", "the size, for example 20GiB", readSize)
      .action(async (name: string, declaredBytes: bigint) => {
        const { volume: changed } = await client().resizeVolume({ name, declaredBytes }, session.call());
        await showVolume(session, changed);
      }),
    "lucid volume resize recordings 20GiB",
  );

  withExamples(
    named(volume.command("rm"))
      .description("Delete a volume with all that is in it")
      .option("--dry-run", "only say what would be deleted")
      .action(async (name: string, { dryRun = false }: { dryRun?: boolean }) => {
        const would = await client().deleteVolume({ name, validateOnly: true }, session.call());
        const amount = ({ fileCount, usedBytes }: typeof would) => `${counted(fileCount, "file")}, ${bytes(usedBytes)}`;
        if (!dryRun) await session.confirm(`This deletes the volume with ${amount(would)}`, name);
        const response = dryRun ? would : await client().deleteVolume({ name, confirmName: name }, session.call());
        if (session.output.json) return session.output.message(DeleteVolumeResponseSchema, response);
        session.output.note(`${dryRun ? "It would delete" : "Deleted"} ${amount(response)}.`);
      }),
    "lucid volume rm recordings",
  );
}

function defineMeasures(volume: Command, session: Session): void {
  const client = () => session.client(VolumeService);

  withExamples(
    named(volume.command("usage"))
      .description("Show how much is in a volume, and how that has changed")
      .addOption(enumOption("--window <window>", "how far back", VolumeWindowSchema))
      .option("--max-age <time>", "measure anew where the last measure is older than this", readSpan)
      .action(async (name: string, { window, maxAge }: { window?: VolumeWindow; maxAge?: number }) => {
        const request = {
          name,
          ...(window !== undefined && { window }),
          ...(maxAge !== undefined && { maxAge: durationFromMs(maxAge) }),
        };
        const response = await client().getVolumeUsage(request, session.call());
        if (session.output.json) return session.output.message(GetVolumeUsageResponseSchema, response);
        const { usage, history, measuring } = response;
        await session.output.facts([
          ["used", bytes(usage?.usedBytes ?? 0n)],
          ["on disk", bytes(usage?.allocatedBytes ?? 0n)],
          [
            "files",
            `${count(usage?.fileCount ?? 0n)} in ${counted(usage?.directoryCount ?? 0n, "directory", "directories")}`,
          ],
          ["level", nameOf(VolumeLevelSchema, usage?.level ?? 0), levelStyle(usage?.level)],
          ["measured", `${time(usage?.measureTime)}${measuring ? ", and is being measured now" : ""}`],
        ]);
        if (history.length === 0) return;
        await session.output.line();
        await session.output.table(history, [
          { title: "TIME", of: ({ measureTime }) => time(measureTime) },
          { title: "USED", of: ({ usedBytes }) => bytes(usedBytes), align: "right" },
          { title: "FILES", of: ({ fileCount }) => count(fileCount), align: "right" },
        ]);
      }),
    "lucid volume usage recordings --window week",
    "lucid volume usage recordings --max-age 0s   # measures now",
  );

  withExamples(
    named(volume.command("health"))
      .description(
        "Check a volume: whether it can be read and written, and has room; ends with 4 where it is not healthy",
      )
      .action(async (name: string) => {
        const response = await client().getVolumeHealth({ name }, session.call());
        if (response.status !== VolumeStatus.HEALTHY) session.ending = "found";
        if (session.output.json) return session.output.message(GetVolumeHealthResponseSchema, response);
        await session.output.facts([
          ["volume", name],
          ["health", nameOf(VolumeStatusSchema, response.status), statusStyle(response.status)],
          ["storage", `${bytes(response.storageFreeBytes)} of ${bytes(response.storageBytes)} are free`],
        ]);
        await session.output.line();
        await session.output.table(response.checks, [
          { title: "CHECK", of: (check) => check.name },
          {
            title: "RESULT",
            of: ({ status }) => nameOf(VolumeStatusSchema, status),
            style: ({ status }) => statusStyle(status),
          },
          { title: "MESSAGE", of: ({ message }) => message || nothing, mayBeCut: true },
        ]);
      }),
    "lucid volume health recordings",
  );

  withExamples(
    named(volume.command("performance"))
      .description("Measure how fast a volume is written, read and synced, by doing so")
      .addOption(new Option("--bytes <size>", "how much is written and read, 1MiB to 256MiB").argParser(readSize))
      .action(async (name: string, options: { bytes?: bigint }) => {
        const request = { name, ...(options.bytes !== undefined && { bytes: options.bytes }) };
        const response = await client().measureVolumePerformance(request, session.call());
        if (session.output.json) return session.output.message(MeasureVolumePerformanceResponseSchema, response);
        await session.output.facts([
          ["written", `${bytes(response.writtenBytes)}, ${bytes(response.writeBytesPerSecond)}/s`],
          ["read", `${bytes(response.readBytes)}, ${bytes(response.readBytesPerSecond)}/s`],
          [
            "synced",
            `${count(response.syncCount)} times, half of them within ${duration(response.syncP50)}, 95 % within ${duration(response.syncP95)}`,
          ],
        ]);
      }),
    "lucid volume performance recordings --bytes 16MiB",
  );

  withExamples(
    named(volume.command("growth"))
      .description("Tell how fast a volume grows, and when it will be full")
      .addOption(enumOption("--window <window>", "how far back to look", VolumeWindowSchema))
      .action(async (name: string, { window }: { window?: VolumeWindow }) => {
        const request = { name, ...(window !== undefined && { window }) };
        const response = await client().getVolumeGrowth(request, session.call());
        if (session.output.json) return session.output.message(GetVolumeGrowthResponseSchema, response);
        await session.output.facts([
          ["growth", `${bytes(response.bytesPerDay)} a day, from ${count(response.sampleCount)} measures`],
          ["critical in", duration(response.timeToCritical)],
          ["full in", duration(response.timeToFull)],
        ]);
      }),
    "lucid volume growth recordings --window week",
  );

  withExamples(
    named(volume.command("report"))
      .description("Tell what fills a volume: the largest files and directories, by size, age and kind")
      .option("--largest <number>", "how many of the largest are named", readNumber(0, 100))
      .action(async (name: string, { largest }: { largest?: number }) => {
        const request = { name, ...(largest !== undefined && { largest }) };
        const response = await client().getVolumeReport(request, session.call());
        if (session.output.json) return session.output.message(GetVolumeReportResponseSchema, response);
        await session.output.line(`${counted(response.fileCount, "file")}, ${bytes(response.bytes)}`);
        if (!response.complete) session.output.note("Time ran out before all was seen.");
        for (const [title, entries] of [
          ["Largest files", response.largestFiles],
          ["Largest directories", response.largestDirectories],
        ] as const) {
          if (entries.length > 0) await showEntries(session, title, entries);
        }
        for (const [title, groups] of [
          ["By size", response.bySize],
          ["By age", response.byAge],
          ["By kind", response.byKind],
        ] as const) {
          if (groups.length === 0) continue;
          await heading(session, title);
          await session.output.table(groups, [
            { title: "GROUP", of: (group) => group.name },
            { title: "FILES", of: ({ fileCount }) => count(fileCount), align: "right" },
            { title: "SIZE", of: (group) => bytes(group.bytes), align: "right" },
          ]);
        }
      }),
    "lucid volume report recordings --largest 20",
  );
}

function defineCare(volume: Command, session: Session): void {
  const client = () => session.client(VolumeService);

  withExamples(
    named(volume.command("clean-up"))
      .description("Remove files that have not been changed for a time")
      .addOption(
        new Option("--older-than <time>", "for how long, for example 30d").argParser(readSpan).makeOptionMandatory(),
      )
      .option("--glob <glob>", "only names that match this; may be given many times", many)
      .option("--dry-run", "only say what would be removed")
      .action(async (name: string, options: { olderThan: number; glob?: readonly string[]; dryRun?: boolean }) => {
        const { olderThan, glob = [], dryRun = false } = options;
        const asked = { name, olderThan: durationFromMs(olderThan), globs: [...glob] };
        const would = await client().cleanUpVolume({ ...asked, validateOnly: true }, session.call());
        const amount = ({ fileCount, bytes: freed }: typeof would) => `${counted(fileCount, "file")}, ${bytes(freed)}`;
        if (!dryRun) await session.confirm(`This removes ${amount(would)}`, name);
        const response = dryRun ? would : await client().cleanUpVolume({ ...asked, confirmName: name }, session.call());
        if (session.output.json) return session.output.message(CleanUpVolumeResponseSchema, response);
        session.output.note(`${dryRun ? "It would remove" : "Removed"} ${amount(response)}.`);
        if (!response.complete) session.output.note("Time ran out; repeat it to go on.");
        if (dryRun && response.examples.length > 0) await showEntries(session, "Some of them", response.examples);
      }),
    "lucid volume clean-up recordings --older-than 30d --glob '*.log' --dry-run",
  );

  withExamples(
    named(volume.command("optimise"))
      .description("Remove temporary files and empty directories that nobody has touched for a time")
      .option("--min-age <time>", "for how long, for example 1d", readSpan)
      .option("--glob <glob>", "what temporary files are called; may be given many times", many)
      .option("--dry-run", "only say what would be removed")
      .action(async (name: string, options: { minAge?: number; glob?: readonly string[]; dryRun?: boolean }) => {
        const { minAge, glob = [], dryRun = false } = options;
        const asked = {
          name,
          temporaryGlobs: [...glob],
          ...(minAge !== undefined && { minAge: durationFromMs(minAge) }),
        };
        const would = await client().optimiseVolume({ ...asked, validateOnly: true }, session.call());
        const amount = ({ fileCount, directoryCount, bytes: freed }: typeof would) =>
          `${counted(fileCount, "file")}, ${counted(directoryCount, "directory", "directories")}, ${bytes(freed)}`;
        if (!dryRun) await session.confirm(`This removes ${amount(would)}`, name);
        const response = dryRun
          ? would
          : await client().optimiseVolume({ ...asked, confirmName: name }, session.call());
        if (session.output.json) return session.output.message(OptimiseVolumeResponseSchema, response);
        session.output.note(`${dryRun ? "It would remove" : "Removed"} ${amount(response)}.`);
        if (!response.complete) session.output.note("Time ran out; repeat it to go on.");
        if (dryRun && response.examples.length > 0) await showEntries(session, "Some of them", response.examples);
      }),
    "lucid volume optimise recordings --dry-run",
  );
}

interface Levels {
  readonly warning?: number;
  readonly critical?: number;
  readonly description?: string;
}

function withLevels(command: Command): Command {
  return command
    .option("--warning <percent>", "from how full on a warning is given", readNumber(0, 100))
    .option("--critical <percent>", "from how full on it is critical", readNumber(0, 100))
    .option("--description <text>", "a note for people");
}

function named(command: Command): Command {
  return command.argument("<volume>", "name of the volume");
}

async function showVolume({ output }: Session, volume: Volume | undefined): Promise<void> {
  if (volume === undefined) return;
  if (output.json) return output.message(VolumeSchema, volume);
  const { usage } = volume;
  await output.facts([
    ["volume", volume.name],
    ["type", nameOf(VolumeTypeSchema, volume.type) || nothing],
    ["may hold", volume.declaredBytes === 0n ? "as much as there is room for" : bytes(volume.declaredBytes)],
    ["warning at", `${volume.warningPercent} %`],
    ["critical at", `${volume.criticalPercent} %`],
    volume.description === "" ? undefined : ["description", volume.description],
    usage && ["used", `${bytes(usage.usedBytes)}, ${usage.usedPercent.toFixed(1)} %`],
    usage && ["files", count(usage.fileCount)],
    usage && ["level", nameOf(VolumeLevelSchema, usage.level), levelStyle(usage.level)],
    usage && ["measured", time(usage.measureTime)],
    ["created", time(volume.createTime)],
    volume.problem === "" ? undefined : ["problem", volume.problem, "red"],
  ]);
}

async function heading({ output }: Session, title: string): Promise<void> {
  await output.line();
  await output.line(output.paint(title, "bold"));
}

async function showEntries(session: Session, title: string, entries: readonly VolumeEntry[]): Promise<void> {
  await heading(session, title);
  await session.output.table(entries, entryColumns);
}

const entryColumns: readonly Column<VolumeEntry>[] = [
  { title: "PATH", of: ({ path }) => path, mayBeCut: true },
  { title: "SIZE", of: (entry) => bytes(entry.bytes), align: "right" },
  { title: "CHANGED", of: ({ changeTime }) => time(changeTime) },
];

function statusStyle(status: VolumeStatus): Style {
  return status === VolumeStatus.HEALTHY ? "green" : status === VolumeStatus.DEGRADED ? "yellow" : "red";
}

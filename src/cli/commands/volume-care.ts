import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { type Command, Option } from "commander";

import { VolumeLevelSchema } from "../../../gen/lucid/admin/v1/volume_pb.ts";
import {
  CleanUpVolumeResponseSchema,
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
import { levelStyle } from "../volumes.ts";
import { namesVolume } from "../volumes.ts";

/** Commands that look at what is in a volume. */
export function defineMeasures(volume: Command, session: Session): void {
  const client = () => session.client(VolumeService);

  withExamples(
    namesVolume(volume.command("usage"))
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
    namesVolume(volume.command("health"))
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
    namesVolume(volume.command("performance"))
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
    namesVolume(volume.command("growth"))
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
    namesVolume(volume.command("report"))
      .description("Tell what fills a volume: the largest files and directories, by size, age and kind")
      .option("--largest <number>", "how many of the largest are named", readNumber(0, 100))
      .action(async (name: string, { largest }: { largest?: number }) => {
        const request = { name, ...(largest !== undefined && { largest }) };
        const response = await client().getVolumeReport(request, session.call());
        if (session.output.json) return session.output.message(GetVolumeReportResponseSchema, response);
        await session.output.line(`${counted(response.fileCount, "file")}, ${bytes(response.bytes)}`);
        if (!response.complete)
          session.output.note("Not all was seen: time ran out, or something may not be looked into.");
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

/** Commands that remove what is not needed. */
export function defineCare(volume: Command, session: Session): void {
  const client = () => session.client(VolumeService);

  withExamples(
    namesVolume(volume.command("clean-up"))
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
        if (!response.complete)
          session.output.note(
            "Not all was gone through: time ran out, so repeat it, or something may not be looked into.",
          );
        if (dryRun && response.examples.length > 0) await showEntries(session, "Some of them", response.examples);
      }),
    "lucid volume clean-up recordings --older-than 30d --glob '*.log' --dry-run",
  );

  withExamples(
    namesVolume(volume.command("optimise"))
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
        if (!response.complete)
          session.output.note(
            "Not all was gone through: time ran out, so repeat it, or something may not be looked into.",
          );
        if (dryRun && response.examples.length > 0) await showEntries(session, "Some of them", response.examples);
      }),
    "lucid volume optimise recordings --dry-run",
  );
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

import { randomUUID } from "node:crypto";

import { type Command, Option } from "commander";

import {
  type Volume,
  VolumeLevelSchema,
  VolumeSchema,
  type VolumeType,
  VolumeTypeSchema,
} from "../../../gen/lucid/admin/v1/volume_pb.ts";
import { DeleteVolumeResponseSchema, VolumeService } from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import { enumOption } from "../choices.ts";
import { withExamples } from "../examples.ts";
import { showList, withLimit } from "../lists.ts";
import type { Session } from "../session.ts";
import { bytes, count, counted, nameOf, nothing, readNumber, readSize, time } from "../units.ts";
import { levelStyle, volumeColumns } from "../volumes.ts";
import { namesVolume } from "../volumes.ts";
import { defineCare, defineMeasures } from "./volume-care.ts";
import { defineVolumeJobs } from "./volume-jobs.ts";

/** `lucid volume …`. */
export function define(volume: Command, session: Session): void {
  defineVolumes(volume, session);
  defineMeasures(volume, session);
  defineCare(volume, session);
  defineVolumeJobs(volume, session);
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
    namesVolume(volume.command("show"))
      .description("Show one volume")
      .action(async (name: string) => {
        const { volume: shown } = await client().getVolume({ name }, session.call());
        await showVolume(session, shown);
      }),
    "lucid volume show recordings",
  );

  withExamples(
    withLevels(namesVolume(volume.command("create")))
      .description("Make a volume: a folder below the root of volumes")
      .addOption(enumOption("--type <type>", "what it is for", VolumeTypeSchema).makeOptionMandatory())
      .addOption(
        new Option("--size <size>", "how large it may become, for example 500MiB")
          .argParser(readSize)
          .makeOptionMandatory(),
      )
      .option("--adopt", "take a folder that is there, with what is in it")
      .action(async (name: string, options: Levels & { type: VolumeType; size: bigint; adopt?: boolean }) => {
        const { type, size, adopt = false, warning, critical, description } = options;
        const init = {
          name,
          type,
          declaredBytes: size,
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
    withLevels(namesVolume(volume.command("update")))
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
    namesVolume(volume.command("resize"))
      .description("Change how large a volume may become")
      .argument("<size>", "the size, for example 20GiB", readSize)
      .action(async (name: string, declaredBytes: bigint) => {
        const { volume: changed } = await client().resizeVolume({ name, declaredBytes }, session.call());
        await showVolume(session, changed);
      }),
    "lucid volume resize recordings 20GiB",
  );

  withExamples(
    namesVolume(volume.command("rm"))
      .description("Delete a volume with all that is in it")
      .option("--dry-run", "only say what would be deleted")
      .action(async (name: string, { dryRun = false }: { dryRun?: boolean }) => {
        const would = await client().deleteVolume({ name, validateOnly: true }, session.call());
        const amount = ({ fileCount, usedBytes }: typeof would) => `${counted(fileCount, "file")}, ${bytes(usedBytes)}`;
        if (!dryRun)
          await session.confirm(`This deletes the volume with ${amount(would)} when it was last measured`, name);
        const response = dryRun ? would : await client().deleteVolume({ name, confirmName: name }, session.call());
        if (session.output.json) return session.output.message(DeleteVolumeResponseSchema, response);
        session.output.note(`${dryRun ? "It would delete" : "Deleted"} ${amount(response)} by the last measure.`);
      }),
    "lucid volume rm recordings",
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

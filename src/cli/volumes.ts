import type { Command } from "commander";

import { type Volume, VolumeLevel, VolumeLevelSchema, VolumeTypeSchema } from "../../gen/lucid/admin/v1/volume_pb.ts";
import type { Column, Style } from "./output.ts";
import { bytes, count, nameOf, nothing } from "./units.ts";

/** How full a volume is, as a colour. */
export function levelStyle(level: VolumeLevel | undefined): Style | undefined {
  if (level === VolumeLevel.WARNING) return "yellow";
  return level === VolumeLevel.CRITICAL || level === VolumeLevel.FULL ? "red" : undefined;
}

/** A volume in one line. */
export const volumeColumns: readonly Column<Volume>[] = [
  { title: "VOLUME", of: ({ name }) => name },
  { title: "TYPE", of: ({ type }) => nameOf(VolumeTypeSchema, type) || nothing },
  { title: "USED", of: ({ usage }) => (usage === undefined ? nothing : bytes(usage.usedBytes)), align: "right" },
  { title: "OF", of: ({ declaredBytes }) => (declaredBytes === 0n ? nothing : bytes(declaredBytes)), align: "right" },
  { title: "FILES", of: ({ usage }) => (usage === undefined ? nothing : count(usage.fileCount)), align: "right" },
  {
    title: "LEVEL",
    of: ({ usage }) => (usage === undefined ? "not measured" : nameOf(VolumeLevelSchema, usage.level) || nothing),
    style: ({ usage }) => levelStyle(usage?.level),
  },
  { title: "PROBLEM", of: ({ problem }) => problem || nothing, mayBeCut: true },
];

/** Adds the argument that names a volume. */
export function namesVolume(command: Command): Command {
  return command.argument("<volume>", "name of the volume");
}

import type { Unit } from "../../../gen/lucid/backup/v1/manifest_pb.ts";

/** What is to be known of the backup of a volume, in sentences for people. */
export function volumeRemarks({ name, description }: Unit): string[] {
  if (description.case !== "volumeFiles") return [];
  const { changedCount, changedExamples, unreadableCount, unreadableExamples, specialCount, hardLinkCount } =
    description.value;
  const such = (examples: readonly string[]) => (examples.length === 0 ? "" : `, such as ${examples.join(", ")}`);
  return [
    ...(changedCount > 0n
      ? [`Volume ${name}: ${changedCount} files were changed while they were read${such(changedExamples)}`]
      : []),
    ...(unreadableCount > 0n
      ? [`Volume ${name}: ${unreadableCount} entries could not be read${such(unreadableExamples)}`]
      : []),
    ...(specialCount > 0n ? [`Volume ${name}: ${specialCount} pipes, sockets and devices are not in the backup`] : []),
    ...(hardLinkCount > 0n
      ? [`Volume ${name}: ${hardLinkCount} names are of files with several; each is a file of its own in the backup`]
      : []),
  ];
}

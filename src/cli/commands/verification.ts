import { type Command } from "commander";

import {
  BackupService,
  GetVerificationResponseSchema,
  JobState,
  type WatchVerificationResponse,
  WatchVerificationResponseSchema,
} from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { withExamples } from "../examples.ts";
import {
  followJob,
  followOptions,
  stateName,
  styleOf,
  viewOf,
  type WatchOptions,
  whyNot,
  withWatchOptions,
} from "../jobs.ts";
import type { Session } from "../session.ts";
import { between, counted, time } from "../units.ts";

/** `lucid backup verification …`. */
export function defineVerification(command: Command, session: Session): void {
  const client = () => session.client(BackupService);
  withExamples(
    command
      .command("show")
      .description("Show one verification")
      .argument("<verification>", "id of the verification")
      .action(async (verificationId: string) => {
        const response = await client().getVerification({ verificationId }, session.call());
        const { output } = session;
        if (output.json) return output.message(GetVerificationResponseSchema, response);
        const { verification } = response;
        if (verification === undefined) return;
        await output.facts([
          ["verification", verification.verificationId],
          ["backup", verification.backupId],
          ["state", stateName(verification.state), styleOf(verification.state)],
          ["read", counted(verification.progress?.itemsDone ?? 0n, "item")],
          ["begun", time(verification.startTime)],
          ["took", between(verification.startTime, verification.endTime)],
          verification.error === undefined ? undefined : ["problem", whyNot(verification.error), "red"],
        ]);
      }),
    "lucid backup verification show 019ab0f2-…",
  );
  withExamples(
    withWatchOptions(command.command("watch"))
      .description("Show how far a verification is until it has ended, and end as it did")
      .argument("<verification>", "id of the verification")
      .action(async (verificationId: string, options: WatchOptions) => {
        await followVerification(session, verificationId, options);
      }),
    "lucid backup verification watch 019ab0f2-…",
  );
  withExamples(
    command
      .command("cancel")
      .description("Stop a verification")
      .argument("<verification>", "id of the verification")
      .action(async (verificationId: string) => {
        const { verification } = await client().cancelVerification({ verificationId }, session.call());
        session.output.note(`The verification is ${stateName(verification?.state ?? JobState.UNSPECIFIED)}.`);
      }),
    "lucid backup verification cancel 019ab0f2-…",
  );
}

/** Shows how far a verification is until it has ended. */
export async function followVerification(
  session: Session,
  verificationId: string,
  options: WatchOptions,
): Promise<void> {
  const client = session.client(BackupService);
  const job = {
    kind: "verification",
    id: verificationId,
    watch: (afterSequence: bigint) => client.watchVerification({ verificationId, afterSequence }, session.stream()),
    view: ({ event }: WatchVerificationResponse) => viewOf(event),
    write: (response: WatchVerificationResponse) => session.output.message(WatchVerificationResponseSchema, response),
    watchCommand: `lucid backup verification watch ${verificationId}`,
    cancelCommand: `lucid backup verification cancel ${verificationId}`,
  };
  await followJob(session, job, followOptions(options));
}

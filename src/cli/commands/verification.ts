import type { Command } from "commander";

import {
  BackupService,
  VerificationSchema,
  WatchVerificationResponseSchema,
} from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import { type JobCommands, jobCommands } from "../job-commands.ts";
import { stateName, storeName, styleOf, viewOfStores, whyNot } from "../job-view.ts";
import type { Session } from "../session.ts";
import { between, count, counted, nothing, time } from "../units.ts";

/** `lucid backup verification …`. */
export function defineVerification(command: Command, session: Session): void {
  verificationCommands(session).define(command, { cancel: "Stop a verification" });
}

/** What commands do with verifications. */
export function verificationCommands(session: Session): JobCommands<typeof VerificationSchema> {
  const client = () => session.client(BackupService);
  return jobCommands(session, {
    noun: "verification",
    path: "lucid backup verification",
    schema: VerificationSchema,
    eventSchema: WatchVerificationResponseSchema,
    idOf: ({ verificationId }) => verificationId,
    get: async (verificationId, call) => (await client().getVerification({ verificationId }, call)).verification,
    watch: (verificationId, afterSequence, call) => client().watchVerification({ verificationId, afterSequence }, call),
    cancel: async (verificationId, call) => (await client().cancelVerification({ verificationId }, call)).verification,
    view: viewOfStores,
    show: async (verification) => {
      const { problems, problemCount } = verification;
      await session.output.facts([
        ["verification", verification.verificationId],
        ["backup", verification.backupId],
        ["state", stateName(verification.state), styleOf(verification.state)],
        ["read", `${verification.readPercent} % of the content`],
        ["checked", counted(verification.progress?.itemsDone ?? 0n, "item")],
        ["begun", time(verification.startTime)],
        ["took", between(verification.startTime, verification.endTime)],
        verification.error && ["problem", whyNot(verification.error), "red"],
        problemCount > 1n ? ["problems", count(problemCount), "red"] : undefined,
      ]);
      if (problems.length === 0) return;
      await session.output.line();
      await session.output.table(problems, [
        { title: "STORE", of: ({ store }) => (store === Store.UNSPECIFIED ? nothing : storeName(store)) },
        { title: "UNIT", of: ({ unit }) => unit || nothing },
        { title: "PROBLEM", of: ({ error }) => error?.reason ?? nothing },
        { title: "WHERE", of: ({ error }) => whereOf(error?.metadata ?? {}), mayBeCut: true },
      ]);
    },
  });
}

/** The object that is damaged, by the most telling of its names. */
function whereOf({ chunk, pack, object }: Readonly<Record<string, string>>): string {
  if (chunk !== undefined) return `chunk ${chunk}`;
  return object ?? (pack === undefined ? nothing : `pack ${pack}`);
}

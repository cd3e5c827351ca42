import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { type Command, InvalidArgumentError } from "commander";

import {
  AuditFaultSchema,
  AuditLogService,
  GetAuditHeadResponseSchema,
  GetAuditRecordResponseSchema,
  type VerifyAuditLogResponse,
  VerifyAuditLogResponseSchema,
} from "../../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import {
  AuditEffectSchema,
  type AuditRecord,
  AuditRecordSchema,
} from "../../../gen/lucid/repository/v1/audit_record_pb.ts";
import { withExamples } from "../examples.ts";
import { Failure, mayPass } from "../failure.ts";
import { showList, withLimit } from "../lists.ts";
import { liveLines } from "../live.ts";
import type { Column } from "../output.ts";
import { mostTries, reconnection } from "../reconnection.ts";
import type { Session } from "../session.ts";
import { safe } from "../text.ts";
import { count, counted, nameOf, nothing, readMoment, readNumber, time } from "../units.ts";

interface Head {
  readonly sequence: bigint;
  readonly hash: string;
}

/** `lucid audit …`. */
export function define(audit: Command, session: Session): void {
  const client = () => session.client(AuditLogService);

  withExamples(
    withLimit(audit.command("ls"))
      .description("List what was done, the newest first")
      .option("--actor <id>", "only calls of this caller")
      .option("--resource <type/name>", "only what changed this resource, for example User/0199…", readResource)
      .option("--rpc <rpc>", "only calls of this rpc, for example lucid.repository.v1.UserService/CreateUser")
      .option("--outcome <code>", "only calls that ended so, for example OK or NOT_FOUND")
      .option("--from <time>", "only calls of this time or later: 2026-11-28, or 2h for two hours ago", readMoment)
      .option("--before <time>", "only calls of before this time", readMoment)
      .action(
        async (options: {
          limit: number;
          actor?: string;
          resource?: { type: string; name: string };
          rpc?: string;
          outcome?: string;
          from?: Date;
          before?: Date;
        }) => {
          const { limit, actor = "", resource, rpc = "", outcome = "", from, before } = options;
          const filter = {
            actorId: actor,
            rpc,
            outcome,
            ...(resource && { resourceType: resource.type, resourceName: resource.name }),
            ...(from && { from: timestampFromDate(from) }),
            ...(before && { before: timestampFromDate(before) }),
          };
          await showList(session, {
            schema: AuditRecordSchema,
            limit,
            columns: recordColumns,
            none: "There are no such records.",
            async page(page) {
              const { records, nextPageToken } = await client().listAuditRecords({ filter, ...page }, session.call());
              return { items: records, nextPageToken };
            },
          });
        },
      ),
    "lucid audit ls --from 1h",
    "lucid audit ls --resource Backup/019ab0f2-… --json",
    "lucid audit ls --outcome FAILED_PRECONDITION",
  );

  withExamples(
    audit
      .command("show")
      .description("Show one record")
      .argument("<record>", "id of the record")
      .action(async (auditId: string) => {
        const { output } = session;
        const response = await client().getAuditRecord({ auditId }, session.call());
        if (output.json) return output.message(GetAuditRecordResponseSchema, response);
        const { record } = response;
        if (record === undefined) return;
        await output.facts([
          ["record", record.auditId],
          ["place", count(record.sequence)],
          ["time", time(record.timestamp)],
          ["actor", record.actor?.id ?? nothing],
          ["rpc", record.rpc],
          ["resource", resourceText(record)],
          ["outcome", record.outcome],
          ["effect", nameOf(AuditEffectSchema, record.effect)],
          ["fields", record.changedFields.join(", ") || nothing],
          ["hash", record.hash],
        ]);
      }),
    "lucid audit show 019ab0f2-…",
  );

  withExamples(
    audit
      .command("head")
      .description("Print place and hash of the newest record, to be kept elsewhere and given to verify")
      .action(async () => {
        const response = await client().getAuditHead({}, session.call());
        if (session.output.json) await session.output.message(GetAuditHeadResponseSchema, response);
        else await session.output.line(headText(response.head));
      }),
    "lucid audit head > /elsewhere/audit-head",
  );

  withExamples(
    audit
      .command("verify")
      .description("Compute all hashes of the log anew; ends with 4 where a record is missing or not as it was written")
      .option("--expect <head>", "a head that was kept, and that the log must still hold", readHead)
      .option("--after <sequence>", "go on behind this record", readNumber(0, Number.MAX_SAFE_INTEGER))
      .action(async ({ expect, after = 0 }: { expect?: Head; after?: number }) =>
        verify(session, BigInt(after), expect),
      ),
    "lucid audit verify",
    'lucid audit verify --expect "$(cat /elsewhere/audit-head)"',
  );
}

async function verify(session: Session, after: bigint, expected: Head | undefined): Promise<void> {
  const { output, terminal } = session;
  using live = !output.json && terminal.stdout.isTTY ? liveLines(terminal.stdout) : undefined;
  let verified = after;
  for await (const response of verifications(session, () => verified, expected)) {
    verified = response.verifiedSequence;
    if (output.json) await output.message(VerifyAuditLogResponseSchema, response);
    const { result, endSequence } = response;
    live?.draw([`${count(verified)} of ${counted(endSequence, "record")}`]);
    if (result === undefined) continue;
    live?.clear();
    if (!result.whole) session.ending = "found";
    if (output.json) return;
    if (result.whole) {
      await output.line(output.paint(`The log is whole up to record ${count(result.head?.sequence ?? 0n)}.`, "green"));
      await output.line(`Head: ${headText(result.head)}`);
      return;
    }
    const id = result.faultAuditId === "" ? "" : `, ${safe(result.faultAuditId)}`;
    const fault = nameOf(AuditFaultSchema, result.fault);
    await output.line(output.paint(`Record ${count(result.faultSequence)}${id} is wrong: ${fault}.`, "red"));
    return;
  }
  throw new Failure(
    "failure",
    `The verification ended early, after record ${verified}`,
    `Go on with --after ${verified}.`,
  );
}

/** What a verification says, which goes on where it was when the connection breaks. */
async function* verifications(
  session: Session,
  verified: () => bigint,
  expected: Head | undefined,
): AsyncGenerator<VerifyAuditLogResponse> {
  const tries = reconnection();
  for (;;) {
    try {
      const request = { afterSequence: verified(), ...(expected && { expected }) };
      for await (const response of session.client(AuditLogService).verifyAuditLog(request, session.stream())) {
        tries.heard();
        yield response;
      }
      return;
    } catch (error) {
      if (session.signal.aborted || verified() === 0n || tries.failures >= mostTries || !mayPass(error)) throw error;
      await tries.wait(session.signal);
    }
  }
}

function headText(head: Head = { sequence: 0n, hash: "" }): string {
  return `${head.sequence}:${safe(head.hash)}`;
}

function resourceText({ resource }: AuditRecord): string {
  return resource === undefined ? nothing : `${resource.type}/${resource.name}`;
}

function readResource(text: string): { type: string; name: string } {
  const [, type = "", name = ""] = /^([^/]+)\/(.+)$/s.exec(text) ?? [];
  if (type === "") throw new InvalidArgumentError("A resource is written TYPE/NAME.");
  return { type, name };
}

function readHead(text: string): Head {
  const [, sequence = "", hash = ""] = /^(\d{1,18}):([0-9a-f]{64})\s*$/.exec(text) ?? [];
  if (sequence === "")
    throw new InvalidArgumentError("A head is written SEQUENCE:HASH, as `lucid audit head` prints it.");
  return { sequence: BigInt(sequence), hash };
}

const recordColumns: readonly Column<AuditRecord>[] = [
  { title: "PLACE", of: ({ sequence }) => count(sequence), align: "right" },
  { title: "TIME", of: ({ timestamp }) => time(timestamp) },
  { title: "ACTOR", of: ({ actor }) => actor?.id ?? nothing },
  { title: "RPC", of: ({ rpc }) => rpc.replace(/^lucid\.\w+\.v1\./, "") },
  { title: "RESOURCE", of: resourceText, mayBeCut: true },
  { title: "OUTCOME", of: ({ outcome }) => outcome, style: ({ outcome }) => (outcome === "OK" ? undefined : "yellow") },
];

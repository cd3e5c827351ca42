import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import { type Command, Option } from "commander";

import { BlockStatusSchema } from "../../../gen/lucid/repository/v1/block_pb.ts";
import { BlockService, WatchBlocksResponseSchema } from "../../../gen/lucid/repository/v1/block_service_pb.ts";
import { type SessionStatus, SessionStatusSchema } from "../../../gen/lucid/repository/v1/session_pb.ts";
import { SessionService, WatchSessionsResponseSchema } from "../../../gen/lucid/repository/v1/session_service_pb.ts";
import {
  type TransactionStatus,
  TransactionStatusSchema,
  type TransactionType,
  TransactionTypeSchema,
} from "../../../gen/lucid/repository/v1/transaction_pb.ts";
import {
  TransactionService,
  WatchTransactionsResponseSchema,
} from "../../../gen/lucid/repository/v1/transaction_service_pb.ts";
import {
  type UserRole,
  UserRoleSchema,
  type UserStatus,
  UserStatusSchema,
} from "../../../gen/lucid/repository/v1/user_pb.ts";
import { UserService, WatchUsersResponseSchema } from "../../../gen/lucid/repository/v1/user_service_pb.ts";
import { WatchEventType, WatchEventTypeSchema } from "../../../gen/lucid/repository/v1/watch_pb.ts";
import { enumOption } from "../choices.ts";
import { withExamples } from "../examples.ts";
import { infoOf, mayPass } from "../failure.ts";
import { reconnection } from "../reconnection.ts";
import type { Session } from "../session.ts";
import { pad, safe } from "../text.ts";
import { nameOf, readNumber, readSpan } from "../units.ts";

interface WatchOptions {
  readonly changesOnly?: boolean;
  readonly resume?: string;
  readonly for?: number;
  readonly count?: number;
}

/** What all events of watches have. */
interface WatchEvent {
  readonly type: WatchEventType;
  readonly revision: bigint;
  readonly resumeToken: string;
}

/** `lucid watch …`. */
export function define(watch: Command, session: Session): void {
  withExamples(
    withOptions(watch.command("users"))
      .description("Show users, then each change of one")
      .addOption(enumOption("--status <status>", "only those in this state", UserStatusSchema))
      .addOption(enumOption("--role <role>", "only those with this role", UserRoleSchema))
      .action(async ({ status, role, ...options }: WatchOptions & { status?: UserStatus; role?: UserRole }) => {
        const filter = { ...(status !== undefined && { status }), ...(role !== undefined && { role }) };
        const { changesOnly = false } = options;
        const client = session.client(UserService);
        await follow(session, options, {
          schema: WatchUsersResponseSchema,
          open: (resumeToken, signal) => client.watchUsers({ filter, changesOnly, resumeToken }, { signal }),
          text: ({ userId, user }) =>
            [userId, user?.email ?? "", user === undefined ? "" : nameOf(UserStatusSchema, user.status)].join("  "),
        });
      }),
    "lucid watch users",
    "lucid watch users --changes-only --json",
  );

  withExamples(
    withOptions(watch.command("sessions"))
      .description("Show sessions, then each change and each step of one")
      .option("--user <user>", "only those of this user")
      .option("--session <session>", "only this session")
      .addOption(enumOption("--status <status>", "only those in this state", SessionStatusSchema))
      .action(async (given: WatchOptions & { user?: string; session?: string; status?: SessionStatus }) => {
        const { user: userId = "", session: sessionId = "", status, changesOnly = false, ...options } = given;
        const filter = { userId, ...(status !== undefined && { status }) };
        const client = session.client(SessionService);
        await follow(session, options, {
          schema: WatchSessionsResponseSchema,
          open: (resumeToken, signal) =>
            client.watchSessions({ filter, sessionId, changesOnly, resumeToken }, { signal }),
          text: (event) =>
            [event.sessionId, nameOf(SessionStatusSchema, event.status), event.session?.sessionName ?? ""].join("  "),
        });
      }),
    "lucid watch sessions --user ada",
    "lucid watch sessions --for 10m --json | jq -r .status",
  );

  withExamples(
    withOptions(watch.command("blocks"), { hasChangesOnly: false })
      .description("Show what becomes of the chain: new blocks, and those that are confirmed or orphaned")
      .option(
        "--after-height <height>",
        "begin behind this height; -1 begins with the first block",
        readNumber(-1, Number.MAX_SAFE_INTEGER),
      )
      .action(async ({ afterHeight, ...options }: WatchOptions & { afterHeight?: number }) => {
        const client = session.client(BlockService);
        const from = afterHeight === undefined ? {} : { afterHeight: BigInt(afterHeight) };
        await follow(session, options, {
          schema: WatchBlocksResponseSchema,
          // A token says where to go on, so a height besides is not taken.
          open: (resumeToken, signal) =>
            client.watchBlocks(resumeToken === "" ? from : { ...from, resumeToken }, { signal }),
          text: ({ height, blockId, status }) =>
            [String(height), blockId, nameOf(BlockStatusSchema, status)].join("  "),
        });
      }),
    "lucid watch blocks",
    "lucid watch blocks --after-height -1 --for 5s",
  );

  withExamples(
    withOptions(watch.command("transactions"))
      .description("Show transactions, then each change and each step of one")
      .option("--sender <address>", "only those from this address")
      .option("--recipient <address>", "only those to this address")
      .addOption(enumOption("--type <type>", "only those of this type", TransactionTypeSchema))
      .addOption(enumOption("--status <status>", "only those in this state", TransactionStatusSchema))
      .action(
        async (
          given: WatchOptions & {
            sender?: string;
            recipient?: string;
            type?: TransactionType;
            status?: TransactionStatus;
          },
        ) => {
          const { sender = "", recipient = "", type, status, changesOnly = false, ...options } = given;
          const filter = {
            fromAddress: sender,
            toAddress: recipient,
            ...(type !== undefined && { transactionType: type }),
            ...(status !== undefined && { status }),
          };
          const client = session.client(TransactionService);
          await follow(session, options, {
            schema: WatchTransactionsResponseSchema,
            open: (resumeToken, signal) => client.watchTransactions({ filter, changesOnly, resumeToken }, { signal }),
            text: (event) => [event.transactionId, nameOf(TransactionStatusSchema, event.status)].join("  "),
          });
        },
      ),
    "lucid watch transactions --status pending",
  );
}

function withOptions(command: Command, { hasChangesOnly = true } = {}): Command {
  if (hasChangesOnly) command.option("--changes-only", "begin with what changes from now on, without what is there");
  return command
    .option("--resume <token>", "go on behind an event: its resumeToken, or what Ctrl-C told")
    .addOption(new Option("--for <time>", "end after this time").argParser(readSpan))
    .addOption(new Option("--count <number>", "end after so many events").argParser(readNumber(1, 1_000_000_000)));
}

/**
 * Shows events until nobody wants more. When the connection breaks it goes on behind the last event; before there is a token to go on
 * with, it begins anew, and what it has shown comes again.
 */
async function follow<D extends DescMessage>(
  session: Session,
  { resume = "", for: forMs, count = Infinity }: WatchOptions,
  {
    schema,
    open,
    text,
  }: {
    readonly schema: D;
    readonly open: (resumeToken: string, signal: AbortSignal) => AsyncIterable<MessageShape<D> & WatchEvent>;
    readonly text: (event: MessageShape<D> & WatchEvent) => string;
  },
): Promise<void> {
  const { output } = session;
  const { signal, isOver } = session.lasting(forMs);
  let token = resume;
  let shown = 0;
  let hasHeard = false;
  const tries = reconnection();
  for (;;) {
    try {
      for await (const event of open(token, signal)) {
        hasHeard = true;
        tries.heard();
        if (event.resumeToken !== "") {
          token = event.resumeToken;
          session.leaves = `Go on with --resume ${token}`;
        }
        const isChange = event.type !== WatchEventType.CHECKPOINT;
        if (output.json) await output.message(schema, event);
        else if (isChange) {
          const type = nameOf(WatchEventTypeSchema, event.type);
          await output.line(`${pad(type, 8)}  ${safe(text(event))}  revision ${event.revision}`);
        }
        if (isChange && ++shown >= count) return;
      }
    } catch (error) {
      if (isOver()) return;
      if (signal.aborted || !hasHeard || !mayPass(error)) {
        // Scripts have it from the events.
        if (!session.signal.aborted && !output.json && token !== "") output.note(`Go on with --resume ${token}`);
        throw error;
      }
      // A watch that was too slow is told where to go on, which may be further than what has arrived.
      token = infoOf(error)?.metadata["resume_token"] ?? token;
      if (tries.failures === 0) output.note("The watch was cut off; trying to go on …");
    }
    await tries.wait(signal).catch(() => session.signal.throwIfAborted());
    if (isOver()) return;
  }
}

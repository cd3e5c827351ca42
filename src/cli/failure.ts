import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";

import {
  BadRequestSchema,
  type ErrorInfo,
  ErrorInfoSchema,
  RetryInfoSchema,
} from "../../gen/google/rpc/error_details_pb.ts";
import { type Ending, exitCodes } from "./exit-codes.ts";
import { safe, safeJson } from "./text.ts";
import { span } from "./units.ts";

/** A failure that this program tells about by itself. */
export class Failure extends Error {
  override readonly name = "Failure";
  readonly ending: Ending;
  readonly advice: string | undefined;

  constructor(ending: Ending, message: string, advice?: string) {
    super(message);
    this.ending = ending;
    this.advice = advice;
  }
}

/** What can be said about a failure, for people and for scripts. */
export interface Told {
  readonly ending: Ending;
  /** A sentence without full stop. */
  readonly message: string;
  /** Name of the code of gRPC; empty where no call failed. */
  readonly code: string;
  /** The service's own reason; empty where it gave none. */
  readonly reason: string;
  readonly metadata: Readonly<Record<string, string>>;
  /** Fields of the request that the service refused. */
  readonly fields: readonly { readonly field: string; readonly description: string }[];
  readonly retryAfterMs: number | undefined;
  /** A sentence on what to do about it. */
  readonly advice: string | undefined;
}

const endings: Readonly<Partial<Record<Code, Ending>>> = {
  [Code.InvalidArgument]: "usage",
  [Code.NotFound]: "refused",
  [Code.AlreadyExists]: "refused",
  [Code.FailedPrecondition]: "refused",
  [Code.Aborted]: "refused",
  [Code.OutOfRange]: "refused",
  [Code.PermissionDenied]: "refused",
  [Code.Unauthenticated]: "refused",
};

/** What an operator can do about a reason, where its sentence does not say it. */
const advices: Readonly<Record<string, string>> = {
  BACKUP_NOT_FOUND: "`lucid backup ls` shows what there is.",
  RESTORE_NOT_FOUND: "`lucid restore ls` shows what there is.",
  SEARCH_INDEX_NOT_FOUND: "`lucid index ls` shows what there is.",
  INDEX_JOB_NOT_FOUND: "`lucid index job ls` shows what there is.",
  DEAD_LETTER_NOT_FOUND: "`lucid index dead-letters ls` shows what there is.",
  VOLUME_NOT_FOUND: "`lucid volume ls` shows what there is.",
  COLLECTION_NOT_FOUND: "`lucid collection ls` shows what there is.",
  INDEX_NOT_FOUND: "`lucid collection index ls` shows what there is.",
  INDEX_BUILD_NOT_FOUND: "`lucid collection build ls` shows what there is.",
  CACHE_KEY_NOT_FOUND: "`lucid cache ls` shows what there is.",
  LOCK_NOT_FOUND: "`lucid cache lock ls` shows what there is.",
  COMPARISON_NOT_FOUND: "`lucid index comparison ls` shows what there is.",
  SEARCH_INDEX_PROTECTED: "The service keeps this index by itself; `lucid index rebuild` makes it anew.",
  BACKUP_REPOSITORY_NOT_CONFIGURED: "Set LUCID_BACKUP_DIR for the service and start it again.",
  BACKUP_REPOSITORY_WRONG_KEY:
    "Give the service the key file that the repository wants, in LUCID_BACKUP_KEY_FILE; its log names the id of each that it had.",
  BACKUP_IN_USE: "Wait until the job that works on it has ended, or cancel that.",
  BACKUP_NOT_COMPLETE: "Only a backup that has succeeded has anything to read.",
  RESTORE_CONFLICT: "Restore under another name with --rename, or say with --conflict what becomes of what is there.",
  ETAG_MISMATCH: "Somebody else has changed it meanwhile: look again, then repeat.",
  STORE_UNAVAILABLE: "`lucid status` shows which store is away.",
  STORE_BUSY: "It answers, but has no room just now; try again in a while.",
  DRAINING: "The service is stopping; try again in a moment.",
};

/** What is to be told about anything that was thrown. */
export function tell(error: unknown, address: string): Told {
  const nothing = { code: "", reason: "", metadata: {}, fields: [], retryAfterMs: undefined, advice: undefined };
  if (error instanceof Failure) {
    return { ...nothing, ending: error.ending, message: error.message, advice: error.advice };
  }
  if (!(error instanceof ConnectError)) {
    const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return { ...nothing, ending: "failure", message: `This is a mistake in lucid: ${message}` };
  }
  const info = infoOf(error);
  const [retry] = error.findDetails(RetryInfoSchema);
  const fields = error
    .findDetails(BadRequestSchema)
    .flatMap(({ fieldViolations }) => fieldViolations.map(({ field, description }) => ({ field, description })));
  const told = {
    ending: endings[error.code] ?? "failure",
    code: codeName(error.code),
    reason: info?.reason ?? "",
    metadata: info?.metadata ?? {},
    fields,
    retryAfterMs: retry?.retryDelay === undefined ? undefined : durationMs(retry.retryDelay),
  } as const;
  // What the service has said has a reason. The rest was found out here, on the way.
  if (info !== undefined) return { ...told, message: error.rawMessage, advice: advices[info.reason] };
  if (isConnectionLost(error)) {
    const isNobody = error.code === Code.Unavailable;
    return {
      ...told,
      ending: "failure",
      message: isNobody
        ? `No service answers at ${address}`
        : `The connection to ${address} broke: ${error.rawMessage}`,
      advice: "Start the service (npm start), or name another address with --address or LUCID_ADDRESS.",
    };
  }
  if (error.code === Code.DeadlineExceeded) {
    return { ...told, message: "The service did not answer in time", advice: "Give it longer with --timeout." };
  }
  if (error.code === Code.Unimplemented) {
    return {
      ...told,
      message: "The service at this address does not have this call",
      advice: "Is it older than this lucid?",
    };
  }
  return { ...told, message: error.rawMessage, advice: undefined };
}

/**
 * Whether a call ended because the way to the service is broken, or nobody is at its end. What the service says itself has a
 * reason; what is found out on the way has one of these codes. A stream whose socket closes ends as if it had been cancelled.
 */
export function isConnectionLost(error: unknown): boolean {
  if (!(error instanceof ConnectError) || infoOf(error) !== undefined) return false;
  return [Code.Unavailable, Code.Aborted, Code.Internal, Code.Unknown, Code.Canceled].includes(error.code);
}

/**
 * Whether what ended so may be gone on with: the service, the way to it, or a store behind it is away for now, or whoever watches
 * was too slow.
 */
export function mayPass(error: unknown): boolean {
  if (isConnectionLost(error)) return true;
  return (
    error instanceof ConnectError && (error.code === Code.Unavailable || infoOf(error)?.reason === "WATCH_TOO_SLOW")
  );
}

/** What the service says about a failure, for programs. */
export function infoOf(error: unknown): ErrorInfo | undefined {
  return error instanceof ConnectError ? error.findDetails(ErrorInfoSchema)[0] : undefined;
}

/** What scripts read. */
export function jsonLine({ ending, message, code, reason, metadata, fields, retryAfterMs, advice }: Told): string {
  const error = { message, code, reason, metadata, fields, retryAfterMs, advice };
  return `${safeJson(JSON.stringify({ error, exitCode: exitCodes[ending].code }))}\n`;
}

/** The lines that people read. */
export function toldLines({ message, reason, fields, retryAfterMs, advice }: Told): readonly string[] {
  const named = reason === "" || message.includes(reason) ? "" : ` (${reason})`;
  return [
    `lucid: ${message.split("\n").map(safe).join("\n")}${named}.`,
    // A rule of the whole request has no field.
    ...fields.map(({ field, description }) => `  ${field === "" ? "" : `${safe(field)}: `}${safe(description)}`),
    ...(retryAfterMs === undefined ? [] : [`Try again in ${span(retryAfterMs)}.`]),
    ...(advice === undefined ? [] : [advice]),
  ];
}

function codeName(code: Code): string {
  return (Code[code] ?? "Unknown")
    .replaceAll(/(?<=.)([A-Z])/g, "_$1")
    .toUpperCase()
    .replace("CANCELED", "CANCELLED");
}

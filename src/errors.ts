import { create } from "@bufbuild/protobuf";
import { anyPack, AnySchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";

import {
  BadRequestSchema,
  ErrorInfoSchema,
  ResourceInfoSchema,
  RetryInfoSchema,
} from "../gen/google/rpc/error_details_pb.ts";
import { type Status, StatusSchema } from "../gen/google/rpc/status_pb.ts";

/**
 * Every reason that a caller can be told, with its code. Part of the API: reasons are added, never renamed.
 * `registry` is the platform's own number for the same thing; it is sent as metadata `registry_code`.
 */
const reasons = {
  // What the caller sent.
  BAD_REQUEST: { code: Code.InvalidArgument },
  PAGE_TOKEN_INVALID: { code: Code.InvalidArgument },
  CONFIRMATION_MISMATCH: { code: Code.FailedPrecondition },
  ETAG_MISMATCH: { code: Code.Aborted },
  ILLEGAL_TRANSITION: { code: Code.FailedPrecondition },
  MESSAGE_TOO_LARGE: { code: Code.ResourceExhausted },
  REQUEST_ID_REUSED: { code: Code.InvalidArgument },

  // Search indices.
  SEARCH_INDEX_NOT_FOUND: { code: Code.NotFound },
  SEARCH_INDEX_OCCUPIED: { code: Code.FailedPrecondition },
  SEARCH_INDEX_ALREADY_EXISTS: { code: Code.AlreadyExists },
  SEARCH_INDEX_PROTECTED: { code: Code.FailedPrecondition },
  SEARCH_INDEX_IN_USE: { code: Code.FailedPrecondition },
  SEARCH_INDEX_UNREADABLE: { code: Code.FailedPrecondition },
  SEARCH_INDEX_CHANGED: { code: Code.Aborted },
  SEARCH_MAPPING_INVALID: { code: Code.InvalidArgument },
  SEARCH_MAPPING_CONFLICT: { code: Code.FailedPrecondition },
  SEARCH_FEATURE_MISSING: { code: Code.FailedPrecondition },
  SEARCH_DOCUMENT_NOT_FOUND: { code: Code.NotFound },
  SEARCH_DOCUMENT_ALREADY_EXISTS: { code: Code.AlreadyExists },
  SEARCH_DOCUMENT_REFUSED: { code: Code.FailedPrecondition },
  SEARCH_REBUILD_NOT_EQUAL: { code: Code.Aborted },
  SEARCH_NO_PREVIOUS_VERSION: { code: Code.FailedPrecondition },
  SEARCH_COPY_INCOMPLETE: { code: Code.FailedPrecondition },
  INDEX_JOB_NOT_FOUND: { code: Code.NotFound },
  SEARCH_SYNC_NOT_BEGUN: { code: Code.FailedPrecondition },
  DEAD_LETTER_NOT_FOUND: { code: Code.NotFound },
  COMPARISON_NOT_FOUND: { code: Code.NotFound },
  SEARCH_INDEX_REPLACED: { code: Code.Aborted },
  SEARCH_HISTORY_LOST: { code: Code.Aborted },
  SEARCH_COLLECTION_REPLACED: { code: Code.Aborted },

  // Searches. A place that is gone is out of the range of what the server keeps, as one in a watch is.
  SEARCH_TOO_COSTLY: { code: Code.InvalidArgument },
  SEARCH_NOT_POSSIBLE: { code: Code.InvalidArgument },
  SEARCH_POSITION_EXPIRED: { code: Code.OutOfRange },
  SEARCH_NOT_CAUGHT_UP: { code: Code.DeadlineExceeded },
  SEARCH_NOTHING_TO_SUGGEST: { code: Code.FailedPrecondition },

  // Users.
  USER_NOT_FOUND: { code: Code.NotFound },
  USER_ALREADY_EXISTS: { code: Code.AlreadyExists },
  USER_NOT_DELETED: { code: Code.FailedPrecondition },
  USER_LOCKED: { code: Code.FailedPrecondition },

  // Manifests, and what their trees are made of.
  MANIFEST_NOT_FOUND: { code: Code.NotFound },
  MANIFEST_ALREADY_EXISTS: { code: Code.AlreadyExists },
  MANIFEST_NOT_DELETED: { code: Code.FailedPrecondition },
  MANIFEST_ALREADY_ANCHORED: { code: Code.FailedPrecondition },
  MANIFEST_ROOT_MISMATCH: { code: Code.FailedPrecondition },
  MERKLE_ALGORITHM_NOT_SUPPORTED: { code: Code.FailedPrecondition },
  CHUNK_MISSING: { code: Code.FailedPrecondition },
  CHUNK_OUT_OF_RANGE: { code: Code.OutOfRange },

  // Sessions.
  SESSION_NOT_FOUND: { code: Code.NotFound },
  SESSION_ALREADY_EXISTS: { code: Code.AlreadyExists },
  SESSION_NOT_DELETED: { code: Code.FailedPrecondition },
  SESSION_TAKES_NO_CHUNKS: { code: Code.FailedPrecondition },
  SESSION_FULL: { code: Code.FailedPrecondition },
  SESSION_WRONG_STATUS: { code: Code.FailedPrecondition },
  SESSION_BUSY: { code: Code.Aborted },
  SESSION_TOO_LARGE: { code: Code.FailedPrecondition },
  MERKLE_TREE_MISSING: { code: Code.FailedPrecondition },
  MERKLE_TREE_MISMATCH: { code: Code.FailedPrecondition },
  CHUNK_NOT_FOUND: { code: Code.NotFound },
  CHUNK_ALREADY_EXISTS: { code: Code.AlreadyExists },

  // Wallets and devices.
  WALLET_NOT_FOUND: { code: Code.NotFound },
  WALLET_ALREADY_EXISTS: { code: Code.AlreadyExists },
  WALLET_NOT_DELETED: { code: Code.FailedPrecondition },
  WALLET_ADDRESS_CHANGED: { code: Code.FailedPrecondition },
  HARDWARE_DEVICE_NOT_FOUND: { code: Code.NotFound },
  HARDWARE_DEVICE_ALREADY_EXISTS: { code: Code.AlreadyExists },
  HARDWARE_DEVICE_NOT_DELETED: { code: Code.FailedPrecondition },

  // The audit log.
  AUDIT_RECORD_NOT_FOUND: { code: Code.NotFound },
  AUDIT_TREE_OUT_OF_RANGE: { code: Code.OutOfRange },
  AUDIT_TREE_DAMAGED: { code: Code.DataLoss },

  // Transactions.
  TRANSACTION_NOT_FOUND: { code: Code.NotFound },
  TRANSACTION_ALREADY_EXISTS: { code: Code.AlreadyExists },
  TRANSACTION_NOT_IN_BLOCK: { code: Code.FailedPrecondition },
  TRANSACTION_ALREADY_ASSIGNED: { code: Code.FailedPrecondition },
  TRANSACTION_INDEX_TAKEN: { code: Code.AlreadyExists },

  // Blocks.
  BLOCK_NOT_FOUND: { code: Code.NotFound },
  BLOCK_ALREADY_EXISTS: { code: Code.AlreadyExists },
  BLOCK_NOT_LINKED: { code: Code.FailedPrecondition },
  BLOCK_HAS_SUCCESSOR: { code: Code.FailedPrecondition },
  BLOCK_ORPHANED: { code: Code.FailedPrecondition },
  BLOCK_NOT_FINALIZED: { code: Code.FailedPrecondition },
  CHAIN_EMPTY: { code: Code.NotFound },
  // Trust policies.
  TRUST_POLICY_NOT_FOUND: { code: Code.NotFound },
  TRUST_POLICY_ALREADY_EXISTS: { code: Code.AlreadyExists },
  TRUST_POLICY_NOT_DELETED: { code: Code.FailedPrecondition },
  TRUST_POLICY_PROTECTED: { code: Code.FailedPrecondition },
  TRUST_POLICY_VERSION_NOT_FOUND: { code: Code.NotFound },
  TRUST_EVALUATION_TOO_LARGE: { code: Code.FailedPrecondition },
  POLICY_VIOLATION_NOT_FOUND: { code: Code.NotFound },
  POLICY_VIOLATION_ALREADY_EXISTS: { code: Code.AlreadyExists },
  POLICY_VIOLATION_ALREADY_RESOLVED: { code: Code.FailedPrecondition },
  TRUST_RELATIONSHIP_NOT_FOUND: { code: Code.NotFound },
  TRUST_RELATIONSHIP_ALREADY_EXISTS: { code: Code.AlreadyExists },
  TRUST_RELATIONSHIP_EXPIRED: { code: Code.FailedPrecondition },

  // Volumes, and the file system that they are in.
  VOLUMES_NOT_CONFIGURED: { code: Code.FailedPrecondition },
  VOLUMES_NOT_SUPPORTED: { code: Code.FailedPrecondition },
  VOLUME_NOT_FOUND: { code: Code.NotFound },
  VOLUME_ALREADY_EXISTS: { code: Code.AlreadyExists },
  VOLUME_NOT_EMPTY: { code: Code.FailedPrecondition },
  VOLUME_IN_USE: { code: Code.FailedPrecondition },
  VOLUME_TOO_SMALL: { code: Code.FailedPrecondition },
  VOLUME_CHANGED: { code: Code.Aborted },
  VOLUME_JOB_NOT_FOUND: { code: Code.NotFound },
  VOLUME_DAMAGED: { code: Code.DataLoss },
  VOLUME_BEING_MEASURED: { code: Code.Unavailable },
  VOLUME_PATH_REFUSED: { code: Code.FailedPrecondition },
  VOLUME_ACCESS_DENIED: { code: Code.FailedPrecondition },
  VOLUME_STORAGE_FULL: { code: Code.ResourceExhausted, registry: "LUCID_ERR_5008" },
  VOLUME_STORAGE_UNAVAILABLE: { code: Code.Unavailable, registry: "LUCID_ERR_5001" },

  // The cache.
  CACHE_KEY_NOT_FOUND: { code: Code.NotFound },
  CACHE_KEY_ALREADY_EXISTS: { code: Code.AlreadyExists },
  CACHE_KEY_PROTECTED: { code: Code.FailedPrecondition },
  CACHE_VALUE_TOO_LARGE: { code: Code.FailedPrecondition },
  CACHE_POSITION_EXPIRED: { code: Code.OutOfRange },
  CACHED_SESSION_NOT_FOUND: { code: Code.NotFound },
  CACHE_REVISION_NOT_REACHED: { code: Code.FailedPrecondition },
  LOCK_NOT_FOUND: { code: Code.NotFound },
  LOCK_NOT_HELD: { code: Code.FailedPrecondition },

  // Removals of data for good.
  REMOVAL_NOT_FOUND: { code: Code.NotFound },
  REMOVAL_HELD: { code: Code.Unavailable },

  // Collections, indexes and shards, as operators look after them.
  DATABASE_PROTECTED: { code: Code.FailedPrecondition },
  COLLECTION_NOT_FOUND: { code: Code.NotFound },
  COLLECTION_ALREADY_EXISTS: { code: Code.AlreadyExists },
  COLLECTION_PROTECTED: { code: Code.FailedPrecondition },
  COLLECTION_IS_VIEW: { code: Code.FailedPrecondition },
  COLLECTION_DEFINITION_INVALID: { code: Code.InvalidArgument },
  COLLECTION_FILTER_INVALID: { code: Code.InvalidArgument },
  INDEX_NOT_FOUND: { code: Code.NotFound },
  INDEX_ALREADY_EXISTS: { code: Code.AlreadyExists },
  INDEX_CONFLICT: { code: Code.FailedPrecondition },
  INDEX_PROTECTED: { code: Code.FailedPrecondition },
  INDEX_DEFINITION_INVALID: { code: Code.InvalidArgument },
  INDEX_NOT_POSSIBLE: { code: Code.FailedPrecondition },
  INDEX_DUPLICATE_VALUES: { code: Code.FailedPrecondition },
  INDEX_BUILD_STOPPED: { code: Code.Aborted },
  INDEX_BUILD_NOT_FOUND: { code: Code.NotFound },
  COLLECTION_ALREADY_SHARDED: { code: Code.FailedPrecondition },
  SHARD_KEY_NOT_POSSIBLE: { code: Code.FailedPrecondition },
  MONGODB_NOT_SHARDED: { code: Code.FailedPrecondition },
  MONGODB_FEATURE_MISSING: { code: Code.FailedPrecondition },

  // The stores and this process.
  STORE_UNAVAILABLE: { code: Code.Unavailable, registry: "LUCID_ERR_5001" },
  COLLECTION_NOT_READY: { code: Code.Unavailable, registry: "LUCID_ERR_5003" },
  // It answers, but has no room: told with UNAVAILABLE, since clients try that again by themselves.
  STORE_BUSY: { code: Code.Unavailable },
  STORE_REFUSED: { code: Code.FailedPrecondition },
  STORE_CONFLICT: { code: Code.Aborted, registry: "LUCID_ERR_5009" },
  DOCUMENT_INVALID: { code: Code.FailedPrecondition },
  DOCUMENT_DAMAGED: { code: Code.DataLoss },
  DEADLINE_EXCEEDED: { code: Code.DeadlineExceeded, registry: "LUCID_ERR_5007" },
  CANCELLED: { code: Code.Canceled },
  INTERNAL: { code: Code.Internal },
  WATCH_INTERRUPTED: { code: Code.Unavailable },
  DRAINING: { code: Code.Unavailable },

  // Watches of documents. A token that is too old is out of the range of the history, as etcd says of a compacted revision.
  // One that is too slow is to try again at a higher level, at once, rather than to wait for a resource.
  WATCH_TOKEN_INVALID: { code: Code.InvalidArgument },
  WATCH_TOKEN_TOO_OLD: { code: Code.OutOfRange },
  WATCH_TOO_SLOW: { code: Code.Aborted },
  CHANGE_STREAMS_UNAVAILABLE: { code: Code.FailedPrecondition },

  // Jobs.
  JOB_NOT_FOUND: { code: Code.NotFound },
  JOB_ALREADY_FINISHED: { code: Code.FailedPrecondition },
  JOB_INTERRUPTED: { code: Code.Aborted },
  LEASE_LOST: { code: Code.Aborted, registry: "LUCID_ERR_5009" },
  JOB_LEASE_LOST: { code: Code.Aborted, registry: "LUCID_ERR_5009" },

  // Backups, verifications and restores.
  BACKUP_NOT_FOUND: { code: Code.NotFound },
  BACKUP_ALREADY_EXISTS: { code: Code.AlreadyExists },
  VERIFICATION_NOT_FOUND: { code: Code.NotFound },
  RESTORE_NOT_FOUND: { code: Code.NotFound },
  BACKUP_NOT_COMPLETE: { code: Code.FailedPrecondition },
  BACKUP_IN_USE: { code: Code.FailedPrecondition },
  BACKUP_TYPE_NOT_SUPPORTED: { code: Code.FailedPrecondition },
  BACKUP_SELECTION_EMPTY: { code: Code.FailedPrecondition },
  BACKUP_INDEX_UNREADABLE: { code: Code.FailedPrecondition },
  BACKUP_REPOSITORY_NOT_CONFIGURED: { code: Code.FailedPrecondition },
  BACKUP_REPOSITORY_UNAVAILABLE: { code: Code.Unavailable, registry: "LUCID_ERR_5001" },
  BACKUP_REPOSITORY_WRONG_KEY: { code: Code.FailedPrecondition },
  BACKUP_REPOSITORY_DAMAGED: { code: Code.DataLoss },
  BACKUP_REPOSITORY_FULL: { code: Code.ResourceExhausted, registry: "LUCID_ERR_5008" },
  BACKUP_FORMAT_UNKNOWN: { code: Code.FailedPrecondition },
  BACKUP_MANIFEST_DAMAGED: { code: Code.DataLoss, registry: "LUCID_ERR_5006" },
  BACKUP_CHUNK_MISSING: { code: Code.DataLoss, registry: "LUCID_ERR_5006" },
  BACKUP_CHUNK_DAMAGED: { code: Code.DataLoss, registry: "LUCID_ERR_5006" },
  BACKUP_HISTORY_LOST: { code: Code.FailedPrecondition, registry: "LUCID_ERR_5005" },
  BACKUP_SOURCE_CHANGED: { code: Code.Aborted, registry: "LUCID_ERR_5005" },
  RESTORE_CONFLICT: { code: Code.FailedPrecondition, registry: "LUCID_ERR_5006" },
  RESTORE_NOT_EQUAL: { code: Code.DataLoss, registry: "LUCID_ERR_5006" },
  RESTORE_REFUSED: { code: Code.FailedPrecondition, registry: "LUCID_ERR_5006" },
} as const satisfies Record<string, { code: Code; registry?: `LUCID_ERR_50${string}` }>;

/** The name of something that a caller can be told. */
export type Reason = keyof typeof reasons;

/** What a failure carries besides its sentence. */
export interface FailOptions {
  /** What varies in the message; sent to the caller. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** Fields of the request that are wrong, each with its path in proto names. */
  readonly fields?: readonly { readonly field: string; readonly description: string; readonly reason?: string }[];
  /** The thing that the failure is about. */
  readonly resource?: { readonly type: string; readonly name: string };
  /** When trying again may help. */
  readonly retryAfterMs?: number;
  /** What caused it; logged, never sent. */
  readonly cause?: unknown;
}

/** A failure travels in headers, of which some clients take 8 KiB in all: text of the caller's in it is cut. */
const mostCharacters = { message: 512, value: 256 };

/** Paths of fields are limited where they are listed; a token is this service's own, and of no use in part. */
const limitedElsewhere: ReadonlySet<string> = new Set(["fields", "resume_token"]);

function cut(text: string, most: number): string {
  return text.length <= most ? text : `${text.slice(0, most).toWellFormed()}…`;
}

/** A failure that the caller can act on. `message` is a sentence without full stop, host name or document. */
export function fail(reason: Reason, message: string, options: FailOptions = {}): ConnectError {
  const entry: { code: Code; registry?: string } = reasons[reason];
  const given = Object.entries(options.metadata ?? {}).map(([key, value]) => [
    key,
    limitedElsewhere.has(key) ? value : cut(value, mostCharacters.value),
  ]);
  const metadata: Record<string, string> = {
    ...(Object.fromEntries(given) as Record<string, string>), // of the same keys and values
    ...(entry.registry === undefined ? {} : { registry_code: entry.registry }),
  };
  const error = new ConnectError(cut(message, mostCharacters.message), entry.code, undefined, undefined, options.cause);
  error.details.push({ desc: ErrorInfoSchema, value: { reason, domain: "lucid", metadata } });
  if (options.fields !== undefined) {
    const fieldViolations = options.fields.map(({ field, description, reason: rule = "" }) => ({
      field,
      description: cut(description, mostCharacters.value),
      reason: rule,
    }));
    error.details.push({ desc: BadRequestSchema, value: { fieldViolations } });
  }
  if (options.resource !== undefined) {
    const { type: resourceType, name } = options.resource;
    const resourceName = cut(name, mostCharacters.value);
    error.details.push({ desc: ResourceInfoSchema, value: { resourceType, resourceName } });
  }
  if (options.retryAfterMs !== undefined) {
    const ms = options.retryAfterMs;
    const retryDelay = { seconds: BigInt(Math.trunc(ms / 1000)), nanos: (ms % 1000) * 1_000_000 };
    error.details.push({ desc: RetryInfoSchema, value: { retryDelay } });
  }
  return error;
}

/** The reason and metadata of an error that `fail` made or that came over the wire; undefined for any other. */
export function reasonOf(error: unknown): { reason: string; metadata: Record<string, string> } | undefined {
  if (!(error instanceof ConnectError)) return undefined;
  for (const detail of error.details) {
    // What `fail` put there has not been encoded yet; what came over the wire has.
    if ("desc" in detail && detail.desc.typeName === ErrorInfoSchema.typeName) {
      // `desc` says that this is how an ErrorInfo was initialised.
      const value = detail.value as { reason: string; metadata?: Record<string, string> };
      return { reason: value.reason, metadata: value.metadata ?? {} };
    }
  }
  const [info] = error.findDetails(ErrorInfoSchema);
  return info === undefined ? undefined : { reason: info.reason, metadata: info.metadata };
}

/** A failure as `google.rpc.Status`: how gRPC sends it, and how an item of a batch tells of it. */
export function rpcStatusOf(error: ConnectError): Status {
  return create(StatusSchema, {
    code: error.code, // Connect's codes and those of gRPC are the same numbers
    message: error.rawMessage.toWellFormed(), // a lone surrogate could not be sent
    details: error.details.map((detail) =>
      "desc" in detail
        ? anyPack(detail.desc, create(detail.desc, detail.value))
        : create(AnySchema, { typeUrl: `type.googleapis.com/${detail.type}`, value: detail.value }),
    ),
  });
}

/** Whether `error` is a failure for that reason. */
export function isReason(error: unknown, reason: Reason): boolean {
  return reasonOf(error)?.reason === reason;
}

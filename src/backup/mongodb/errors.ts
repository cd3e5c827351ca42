import { MongoError, MongoNetworkError, MongoServerError, MongoServerSelectionError } from "mongodb";

/** Codes of servers that are told apart here. */
export const serverCode = {
  namespaceNotFound: 26,
  namespaceExists: 48,
  indexOptionsConflict: 85,
  indexKeySpecsConflict: 86,
  commandNotSupportedOnView: 166,
  snapshotTooOld: 239,
  invalidResumeToken: 260,
  changeStreamFatalError: 280,
  changeStreamHistoryLost: 286,
  duplicateKey: 11_000,
  databaseDiffersInCase: 13_297,
  unrecognizedStage: 40_324,
  unknownField: 40_415,
  changeStreamsUnsupported: 40_573,
} as const;

/** Reading may go on with a new cursor after these. */
const cursorCodes = new Set<number | string | undefined>([
  6, // HostUnreachable
  7, // HostNotFound
  43, // CursorNotFound
  63, // StaleShardVersion
  89, // NetworkTimeout
  91, // ShutdownInProgress
  133, // FailedToSatisfyReadPreference
  134, // ReadConcernMajorityNotAvailableYet
  136, // CappedPositionLost
  150, // StaleEpoch
  175, // QueryPlanKilled
  189, // PrimarySteppedDown
  234, // RetryChangeStream
  237, // CursorKilled
  262, // ExceededTimeLimit
  9001, // SocketException
  10_107, // NotWritablePrimary
  11_600, // InterruptedAtShutdown
  11_602, // InterruptedDueToReplStateChange
  13_388, // StaleConfig
  13_435, // NotPrimaryNoSecondaryOk
  13_436, // NotPrimaryOrSecondary
]);

/** Whether reading may go on with a new cursor after this error. */
export function isInterruption(error: unknown): boolean {
  if (error instanceof MongoNetworkError || error instanceof MongoServerSelectionError) return true;
  if (!(error instanceof MongoError)) return false;
  return cursorCodes.has(error.code) || error.hasErrorLabel("ResumableChangeStreamError");
}

/** Whether a server refused with that code. */
export function hasCode(error: unknown, code: number): boolean {
  return error instanceof MongoServerError && error.code === code;
}

import { fail, type Reason } from "../../errors.ts";

/** Where the kernel shows the files that a process has open; a path below a directory there begins at that very directory. */
export const openFiles = "/proc/self/fd";

/** What a file system says that a caller can act on. */
const reasons: Readonly<Record<string, readonly [Reason, string]>> = {
  ENOSPC: ["VOLUME_STORAGE_FULL", "There is no room left where the volume is stored"],
  EDQUOT: ["VOLUME_STORAGE_FULL", "The quota of where the volume is stored is used up"],
  EFBIG: ["VOLUME_STORAGE_FULL", "A file would be larger than where the volume is stored takes"],
  EMLINK: ["VOLUME_STORAGE_FULL", "A file would have more names than where the volume is stored takes"],
  EROFS: ["VOLUME_ACCESS_DENIED", "Where the volume is stored can only be read"],
  EACCES: ["VOLUME_ACCESS_DENIED", "The service may not do that where the volume is stored"],
  EPERM: ["VOLUME_ACCESS_DENIED", "The service may not do that where the volume is stored"],
  ELOOP: ["VOLUME_PATH_REFUSED", "A symlink is where a directory or a file was expected"],
  ENOTDIR: ["VOLUME_PATH_REFUSED", "Something else is where a directory was expected"],
  EXDEV: ["VOLUME_PATH_REFUSED", "Another file system is mounted inside the volume"],
  EIO: ["VOLUME_STORAGE_UNAVAILABLE", "Where the volume is stored cannot be read or written"],
  ESTALE: ["VOLUME_STORAGE_UNAVAILABLE", "Where the volume is stored is away"],
  ENODEV: ["VOLUME_STORAGE_UNAVAILABLE", "Where the volume is stored is away"],
  ENOTCONN: ["VOLUME_STORAGE_UNAVAILABLE", "Where the volume is stored is away"],
  ENXIO: ["VOLUME_STORAGE_UNAVAILABLE", "Where the volume is stored is away"],
};

/** What others have done meanwhile, where it is about a name in an open directory. */
const changed = new Set(["ENOENT", "EEXIST", "ENOTEMPTY", "EISDIR", "EBUSY"]);

/** This process, or the machine, has as many files open as it may. */
const tooManyOpen = new Set(["EMFILE", "ENFILE"]);

/** System calls of sockets have some of these codes too. */
const socketCalls = new Set(["connect", "listen", "bind", "accept", "read", "write", "getaddrinfo", "spawn", "kill"]);
const ofFilesOnly = new Set(["ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "ESTALE"]);

/**
 * What a caller is told of an error of the file system, with the volume where it is known; undefined where it is none of those that one
 * can act on.
 */
export function fileFailure(error: Error, volume?: string): unknown {
  if (!("syscall" in error) || !("code" in error) || typeof error.code !== "string") return undefined;
  const metadata = { file_error: error.code, ...(volume !== undefined && { volume }) };
  // The paths in the cause are those of this process's own open files, and of no use to anybody.
  const tell = (reason: Reason, message: string) =>
    fail(reason, volume === undefined ? message : `The volume ${volume}: ${message}`, { metadata, cause: error });
  if ("path" in error && String(error.path).startsWith(openFiles)) {
    if (changed.has(error.code)) {
      return tell("VOLUME_CHANGED", "Something in the volume was changed meanwhile");
    }
    if (tooManyOpen.has(error.code)) {
      return tell("VOLUME_STORAGE_UNAVAILABLE", "There are too many files open");
    }
  }
  const told = reasons[error.code];
  if (told === undefined || (socketCalls.has(String(error.syscall)) && !ofFilesOnly.has(error.code))) return undefined;
  return tell(...told);
}

/** An error of work on a volume, which is named where it is one of the file system: a job may work on several. */
export function ofVolume(name: string, error: unknown): unknown {
  return error instanceof Error ? (fileFailure(error, name) ?? error) : error;
}

/** Whether an error is one of the file system with one of these codes. */
export function hasFileCode(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && "code" in error && typeof error.code === "string" && codes.includes(error.code);
}

/** What happens to whoever reads a tree that others change: a name is gone, or is something else by now. */
export function isChangedMeanwhile(error: unknown): boolean {
  return hasFileCode(error, "ENOENT", "ENOTDIR", "ELOOP", "EISDIR", "ESTALE");
}

/** For what may have gone or turned into something else meanwhile. */
export function unlessChanged(error: unknown): undefined {
  if (!isChangedMeanwhile(error)) throw error;
}

/** What part of an object to read. */
export type ByteRange = { readonly offset: number; readonly length: number } | { readonly last: number };

/** An object as a listing shows it. */
export interface ObjectInfo {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
}

/**
 * Where the objects of a repository stand. Names are lower-case paths with `/`. A listing sees every put and delete that ended
 * before it began, and an object is there whole or not at all; the safety of deletion rests on both.
 *
 * Every call fails with `BACKUP_REPOSITORY_FULL` where there is no room and `BACKUP_REPOSITORY_UNAVAILABLE` where the storage
 * cannot be used, and with the signal's reason when that is aborted.
 */
export interface ObjectStorage {
  /**
   * Stores an object; it is durable when this resolves. With `ifAbsent` nothing is changed where the name is taken, and the
   * result is false: of several callers one gets true. Without it the object is replaced in one step. `bytes` must not be
   * changed before this has settled.
   */
  put(
    name: string,
    bytes: Uint8Array,
    options: { readonly ifAbsent: boolean; readonly signal: AbortSignal },
  ): Promise<boolean>;
  /** Reads an object or a part of it, undefined where there is none. A range that passes the end gives what there is. */
  get(name: string, options: { readonly range?: ByteRange; readonly signal: AbortSignal }): Promise<Buffer | undefined>;
  /** Lists the objects whose names begin with `prefix`, which ends in `/`; in no order. */
  list(prefix: string, signal: AbortSignal): AsyncIterable<ObjectInfo>;
  /** Removes an object; nothing happens where there is none. */
  delete(name: string, signal: AbortSignal): Promise<void>;
}

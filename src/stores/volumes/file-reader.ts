import type { BigIntStats } from "node:fs";
import type { FileHandle } from "node:fs/promises";

import { isReason } from "../../errors.ts";
import type { Directory, Entry } from "./directory.ts";
import { hasFileCode, isChangedMeanwhile } from "./failures.ts";

/** A file this long is read at once, a longer one in parts of that length. */
export const partBytes = 256 * 1024;

/** What becomes of a file that is read while others may write it. */
export type ReadOutcome = "read" | "changed";

/** Bytes in parts. */
export type Parts = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/** A file that is open for reading. */
export interface ReadFile extends AsyncDisposable {
  /** What it was when it was opened. */
  readonly stat: BigIntStats;
  /** The whole of a file that is no longer than a part; undefined for a longer one, and for one that has become so. */
  whole(): Promise<Buffer | undefined>;
  /** Its content, part by part, the last one shorter than the others or empty; one buffer serves all of them. */
  parts(signal: AbortSignal): AsyncGenerator<Buffer>;
  /** Whether this is what it holds. */
  isContent(parts: Parts): Promise<boolean>;
  /** Whether it is still what it was when it was opened. To be asked when it has been read. */
  outcome(): Promise<ReadOutcome>;
}

/** Opens a file that was met. A word instead where it has gone, is another thing by now, or may not be read. */
export async function readFileOf(
  directory: Directory,
  { name }: Pick<Entry, "name">,
): Promise<ReadFile | "gone" | "denied"> {
  let handle: FileHandle;
  try {
    handle = await directory.openFile(name);
  } catch (error) {
    // ENXIO and ENODEV: a socket, or a device that nobody drives, has taken its name.
    const isGone = isChangedMeanwhile(error) || hasFileCode(error, "ENXIO", "ENODEV");
    if (isGone || isReason(error, "VOLUME_PATH_REFUSED")) return "gone";
    if (hasFileCode(error, "EACCES", "EPERM", "EIO")) return "denied";
    throw error;
  }
  try {
    return fileOf(handle, await handle.stat({ bigint: true }));
  } catch (error) {
    await handle.close();
    throw error;
  }
}

function fileOf(handle: FileHandle, stat: BigIntStats): ReadFile {
  const fill = async (buffer: Buffer, at: number): Promise<number> => {
    let filled = 0;
    while (filled < buffer.length) {
      const { bytesRead } = await handle.read(buffer, filled, buffer.length - filled, at + filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    return filled;
  };
  return {
    stat,
    async whole() {
      if (stat.size > partBytes) return undefined;
      // One byte more than there should be shows that it has grown. Not from the pool that small buffers share: whatever small one is
      // kept for long, such as the name of a chunk, would keep the content of many files with it.
      const buffer = Buffer.allocUnsafeSlow(Number(stat.size) + 1);
      const filled = await fill(buffer, 0);
      return filled === buffer.length ? undefined : buffer.subarray(0, filled);
    },
    async *parts(signal) {
      const buffer = Buffer.allocUnsafeSlow(Math.min(partBytes, Number(stat.size) + 1));
      for (let at = 0, filled = buffer.length; filled === buffer.length; at += filled) {
        signal.throwIfAborted();
        filled = await fill(buffer, at);
        yield buffer.subarray(0, filled);
      }
    },
    async isContent(parts) {
      let at = 0;
      for await (const part of parts) {
        const buffer = Buffer.allocUnsafeSlow(part.byteLength);
        if ((await fill(buffer, at)) !== part.byteLength || !buffer.equals(part)) return false;
        at += part.byteLength;
      }
      return (await handle.read(Buffer.alloc(1), 0, 1, at)).bytesRead === 0;
    },
    async outcome() {
      const now = await handle.stat({ bigint: true });
      const isSame = now.size === stat.size && now.mtimeNs === stat.mtimeNs && now.ctimeNs === stat.ctimeNs;
      return isSame ? "read" : "changed";
    },
    [Symbol.asyncDispose]: () => handle.close(),
  };
}

import { promisify } from "node:util";
import {
  constants,
  createZstdCompress,
  type ZstdCompress,
  zstdCompress,
  zstdDecompress,
  zstdDecompressSync,
} from "node:zlib";

import { NotAuthentic } from "./keys.ts";

/**
 * zstd's level. Measured on 64 KiB chunks of 1 KB documents: level 1 takes 6 ms of CPU for a megabyte, level 3 takes 10 and saves
 * 4 % more; a backup shares its cores with the reading of the store.
 */
const LEVEL = 1;
const PARAMETERS = { [constants.ZSTD_c_compressionLevel]: LEVEL, [constants.ZSTD_c_checksumFlag]: 1 };
/** The largest chunk: zstd's tables need not be made for more. */
const WINDOW_LOG = 18;
const OUTPUT_BYTES = 128 * 1024;
/** What every zstd frame begins with. */
const FRAME_MAGIC = 0xfd2f_b528;

const compressAsync = promisify(zstdCompress);
const decompressAsync = promisify(zstdDecompress);

/** Compresses an object as a whole to one zstd frame. `bytes` must not be changed before this has settled. */
export function compress(bytes: Uint8Array): Promise<Buffer> {
  return compressAsync(bytes, { params: PARAMETERS });
}

/** Reverses `compress`. Throws where the frame is damaged or gives more than `maxBytes`. */
export function decompress(bytes: Uint8Array, maxBytes: number): Promise<Buffer> {
  return decompressAsync(bytes, { maxOutputLength: Math.max(1, maxBytes) });
}

/**
 * Decompresses a chunk on this thread. At 64 KiB it takes 90 µs, less than a visit to a thread of the pool costs on both sides.
 * Throws `NotAuthentic` where the frame is damaged or gives more than `plainLength` bytes.
 */
export function decompressChunk(bytes: Uint8Array, plainLength: number): Buffer {
  try {
    // Room to spare lets zstd see the end of the frame in the first call.
    return zstdDecompressSync(bytes, { chunkSize: plainLength + 64, maxOutputLength: Math.max(1, plainLength) });
  } catch (cause) {
    throw new NotAuthentic("The content cannot be decompressed", { cause });
  }
}

/** Compresses chunks on threads of the pool. */
export class ChunkCompression {
  readonly #idle: Compressor[] = [];

  /** One zstd frame. `bytes` must not be changed before this has settled. Any number of calls at once. */
  async run(bytes: Uint8Array): Promise<Buffer> {
    const compressor = this.#idle.pop() ?? new Compressor();
    const frame = await compressor.run(bytes);
    this.#idle.push(compressor);
    return frame;
  }

  close(): void {
    for (const compressor of this.#idle.splice(0)) compressor.close();
  }
}

/**
 * Compresses chunk after chunk with one context. A context for each chunk takes half as long again, most of it in the garbage
 * collector: V8 counts each context's megabyte, again and again.
 */
class Compressor {
  /**
   * Whatever is written becomes a frame of its own, in one visit to the pool. Where that ends exactly with the output buffer, zstd
   * is asked once more and adds an empty frame, which readers pass over.
   */
  readonly #stream: ZstdCompress = createZstdCompress({
    chunkSize: OUTPUT_BYTES,
    params: { ...PARAMETERS, [constants.ZSTD_c_windowLog]: WINDOW_LOG },
    flush: constants.ZSTD_e_end,
  });
  #parts: Buffer[] = [];
  #reject: ((error: Error) => void) | undefined;

  constructor() {
    this.#stream.on("data", (part: Buffer) => this.#parts.push(part));
    this.#stream.on("error", (error) => this.#reject?.(error));
  }

  run(bytes: Uint8Array): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.#reject = reject;
      this.#stream.write(bytes, (error) => {
        if (error) {
          reject(error);
          return;
        }
        // What the stream has not handed to its listener yet.
        while (this.#stream.read() !== null);
        const [only] = this.#parts;
        const frame = this.#parts.length === 1 && only !== undefined ? only : Buffer.concat(this.#parts);
        this.#parts = [];
        // Were a frame's end ever to come later than its write's, the next frame would begin with it.
        if (frame.byteLength < 4 || frame.readUInt32LE(0) !== FRAME_MAGIC) reject(new Error("zstd gave no frame"));
        else resolve(frame);
      });
    });
  }

  close(): void {
    this.#stream.destroy();
  }
}

// A process of its own: `child.ts <mode> <dir> <key file> <megabytes>`. Says what happens as lines of JSON.
import { createCipheriv } from "node:crypto";

import { openRepository } from "../../../src/backup/repository/repository.ts";
import { reasonOf } from "../../../src/errors.ts";

const [mode, dir = "", keyFile = "", megabytes = "0"] = process.argv.slice(2);
const signal = new AbortController().signal;
const STREAMS = 4;
const RECORD_BYTES = 1000;
const BATCH = 1000;

function say(line: Record<string, unknown>): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

/** A batch of records that are all different and the same in every process; a half of each does not compress. */
function batchOf(stream: number, number: number): Buffer[] {
  const half = RECORD_BYTES / 2;
  const start = Buffer.alloc(16);
  start.writeUInt32LE(stream, 0);
  start.writeUInt32LE(number, 4);
  const random = createCipheriv("aes-128-ctr", Buffer.alloc(16), start).update(Buffer.alloc(BATCH * half));
  const bytes = Buffer.alloc(BATCH * RECORD_BYTES, "some text that compresses well, ");
  return Array.from({ length: BATCH }, (_, i) => {
    const record = bytes.subarray(i * RECORD_BYTES, (i + 1) * RECORD_BYTES);
    random.copy(record, 0, i * half, (i + 1) * half);
    return record;
  });
}

async function run(): Promise<void> {
  await using repository = await openRepository({ dir, keyFile });
  globalThis.gc?.();
  const idle = process.memoryUsage.rss();
  let peak = idle;
  const sample = () => {
    peak = Math.max(peak, process.memoryUsage.rss());
  };
  await using writer = await repository.begin("child", signal);
  let told = 0;
  const batches =
    mode === "endless"
      ? Number.MAX_SAFE_INTEGER
      : Math.ceil((Number(megabytes) * 1e6) / STREAMS / BATCH / RECORD_BYTES);
  const streams = await Promise.all(
    Array.from({ length: STREAMS }, async (_, s) => {
      await using stream = writer.open();
      for (let i = 0; i < batches; i++) {
        await stream.write(batchOf(s, i));
        sample();
        if (writer.bytesWritten > told) say({ bytesWritten: (told = writer.bytesWritten) });
      }
      return await stream.seal();
    }),
  );
  const count = BigInt(batches * BATCH * STREAMS);
  const unit = { name: "u", streams, recordCount: count, recordBytes: count * BigInt(RECORD_BYTES) };
  const manifest = await writer.seal({ units: [unit] });
  say({ writePeak: peak - idle });
  peak = idle;
  await repository.verify(manifest, { onProgress: sample }, signal);
  say({ readPeak: peak - idle });
}

await run().catch((error: unknown) => say({ reason: reasonOf(error)?.reason ?? String(error) }));

// A process of its own: `child.ts <mode> <dir> <key file> <megabytes>`. Says what happens as lines of JSON.
import { createHash } from "node:crypto";

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

/** A batch whose records are all different, half of each random to zstd. */
function batchOf(stream: number, number: number): Buffer[] {
  const bytes = Buffer.alloc(BATCH * RECORD_BYTES, "some text that compresses well, ");
  const seed = createHash("sha512").update(`${stream} ${number}`).digest();
  return Array.from({ length: BATCH }, (_, i) => {
    const record = bytes.subarray(i * RECORD_BYTES, (i + 1) * RECORD_BYTES);
    for (let at = 0; at + 8 <= 500; at += 8) record.writeInt32LE(Math.imul(seed.readInt32LE(at % 60) ^ at, i + 1), at);
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

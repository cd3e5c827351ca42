import type { Db, RunCommandCursor } from "mongodb";

/**
 * Bytes that a batch should have: enough to keep the server busy, and little, since several readers have one in hand and one
 * under way each, and a server would send 16 MB.
 */
const batchBytes = 512 * 1024;

/** Documents of the first batch, by which the size of documents is judged. */
const firstBatchDocuments = 100;
const mostBatchDocuments = 10_000;

/**
 * The documents of a command's cursor in batches, undecoded. The next batch is under way while one is worked on. A batch's
 * documents share memory: what is kept for long has to be copied.
 */
export async function* rawBatches(db: Db, command: Record<string, unknown>): AsyncGenerator<Uint8Array[]> {
  const isFind = "find" in command;
  await using cursor = db.runCursorCommand(
    { ...command, ...(isFind && { batchSize: firstBatchDocuments }) },
    { raw: true },
  );
  let next = nextBatch(cursor);
  for (;;) {
    const batch = await next;
    if (batch.length === 0) return;
    cursor.setBatchSize(documentsOf(batch));
    next = nextBatch(cursor);
    // Awaited in the next round; where there is none, nobody waits for it.
    next.catch(() => undefined);
    yield batch;
  }
}

/** The same one by one. */
export async function* rawDocuments(db: Db, command: Record<string, unknown>): AsyncGenerator<Uint8Array> {
  for await (const batch of rawBatches(db, command)) yield* batch;
}

/** Bytes of all of them. */
export function bytesOf(documents: readonly Uint8Array[]): number {
  let bytes = 0;
  for (const { byteLength } of documents) bytes += byteLength;
  return bytes;
}

async function nextBatch(cursor: RunCommandCursor): Promise<Uint8Array[]> {
  const first: unknown = await cursor.next();
  // With `raw`, documents are their bytes.
  return first === null ? [] : ([first, ...cursor.readBufferedDocuments()] as Uint8Array[]);
}

/** How many documents like these make a batch. */
function documentsOf(batch: readonly Uint8Array[]): number {
  const average = Math.max(1, bytesOf(batch) / batch.length);
  return Math.min(mostBatchDocuments, Math.max(1, Math.floor(batchBytes / average)));
}

import { randomUUID } from "node:crypto";
import { parseArgs } from "node:util";

import type { MessageInitShape } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { type Document, MongoClient } from "mongodb";

import { type ChunkSchema, ChunkStatus } from "../gen/lucid/repository/v1/chunk_pb.ts";
import { SessionService } from "../gen/lucid/repository/v1/session_service_pb.ts";
import { runCommand } from "../local/project.ts";
import { random } from "../local/seed/random.ts";
import { namedStores, startStores, storeEnvironment } from "../local/stores.ts";
import { startService } from "./support/service-process.ts";
import { median, printTable } from "./support/table.ts";
import { throwawayDatabases } from "./support/throwaway.ts";

const database = "bench_chunks";
const systemDatabase = "bench_chunks_system";
/** Chunks of an upload, and how often each side stores so many. */
const { count, rounds } = options();
/** How many times as many the memory is measured over. */
const several = 5;
/** Chunks in a message, and documents in a statement of the driver. */
const batch = 500;

/**
 * Chunks of a session through AddChunks, with all that the service does for them, against the driver's insertMany of the same
 * documents into the same collection, in turns. Beside it the service's memory while it takes several times as many chunks from a
 * client that sends as fast as it can. Options: `--chunks 2000 --rounds 3`.
 */
await runCommand(async () => {
  await using stores = await startStores({ named: namedStores(process.env) });
  await using mongodb = await MongoClient.connect(stores.mongodbUri);
  await using _ = await throwawayDatabases(mongodb, [database, systemDatabase]);
  await using service = await startService({
    ...storeEnvironment(stores),
    LUCID_MONGODB_DATABASE: database,
    LUCID_MONGODB_SYSTEM_DATABASE: systemDatabase,
    // Follows what was changed; no part of a call.
    LUCID_SEARCH_SYNC: "off",
  });
  const sessions = createClient(SessionService, service.transport);
  const stored = mongodb.db(database).collection("chunks");
  const upload = async (total: number): Promise<string> => {
    const { session } = await sessions.createSession({ session: { userId: "bench", maxSizeBytes: 2n ** 50n } });
    const sessionId = session?.sessionId ?? "";
    const response = await sessions.addChunks(messages(sessionId, total));
    if (Number(response.addedCount) !== total) throw new Error(`Only ${response.addedCount} chunks were added`);
    return sessionId;
  };

  let like: Document[] = [];
  /** Into the same collection, so that both meet the same indexes. */
  const insert = async (): Promise<string> => {
    const sessionId = randomUUID();
    const copies = like.map((document) => ({ ...document, session_id: sessionId, chunk_id: randomUUID() }));
    for (let at = 0; at < count; at += batch) await stored.insertMany(copies.slice(at, at + batch), { ordered: false });
    return sessionId;
  };

  const took: Record<"service" | "driver", number[]> = { service: [], driver: [] };
  const kinds = [
    { kind: "service", run: () => upload(count) },
    { kind: "driver", run: insert },
  ] as const;
  for (let round = 0; round <= rounds; round += 1) {
    // Each goes first in turn. The first round warms everything up, and makes the documents.
    for (const { kind, run } of round % 2 === 0 ? kinds : kinds.toReversed()) {
      const began = performance.now();
      const sessionId = await run();
      if (round > 0) took[kind].push(performance.now() - began);
      else if (kind === "service") like = await stored.find({ session_id: sessionId }).project({ _id: 0 }).toArray();
      await stored.deleteMany({ session_id: sessionId });
    }
  }
  const ratios = took.driver.map((ms, round) => ms / (took.service[round] ?? Number.NaN));
  const perSecond = (times: readonly number[]) => ((count / median(times)) * 1000).toFixed(0);
  printTable(`${count} chunks in batches of ${batch}, median of ${rounds} rounds`, [
    ["", "chunks/s", "service / driver"],
    ["driver's insertMany", perSecond(took.driver), "1.00"],
    ["AddChunks", perSecond(took.service), median(ratios).toFixed(2)],
  ]);

  const before = service.residentBytes();
  service.forgetPeak();
  await upload(several * count);
  const mebibytes = (bytes: number) => (bytes / 2 ** 20).toFixed(0);
  printTable(`Memory of the service over one upload of ${several * count} chunks`, [
    ["MiB before", "MiB at most", "MiB more"],
    [mebibytes(before), mebibytes(service.peakBytes()), mebibytes(service.peakBytes() - before)],
  ]);
});

async function* messages(sessionId: string, total: number) {
  for (let at = 0; at < total; at += batch) {
    yield { sessionId, chunks: Array.from({ length: Math.min(batch, total - at) }, (_, offset) => chunk(at + offset)) };
  }
}

function chunk(index: number): MessageInitShape<typeof ChunkSchema> {
  return {
    chunkIndex: BigInt(index),
    sizeBytes: BigInt(8_000_000 + index),
    hash: random("bench", index).hex(64),
    status: ChunkStatus.UPLOADED,
    storagePath: `/chunks/bench/${index}`,
  };
}

function options(): { readonly count: number; readonly rounds: number } {
  const { values } = parseArgs({
    options: { chunks: { type: "string", default: "10000" }, rounds: { type: "string", default: "5" } },
  });
  return { count: Number(values.chunks), rounds: Number(values.rounds) };
}

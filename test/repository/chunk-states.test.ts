import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";

import { ChunkStatus, ChunkStatusSchema } from "../../gen/lucid/repository/v1/chunk_pb.ts";
import { storedName } from "../../src/schema/stored-field.ts";
import { runs, within } from "../support/sequences.ts";
import { chunkInit, countersOf, newSession, type SessionsApp, sessionsApp } from "./session-support.ts";
import { refusalOf } from "./support.ts";

let service: SessionsApp;
beforeAll(async () => {
  service = await sessionsApp();
});
afterAll(() => service[Symbol.asyncDispose]());

const { PENDING, UPLOADING, UPLOADED, PROCESSING, ENCRYPTED, STORED, FAILED } = ChunkStatus;
const states = [PENDING, UPLOADING, UPLOADED, PROCESSING, ENCRYPTED, STORED, FAILED] as const;

/** What the contract says of a step, in other words than the service has it. */
function isAllowed(from: ChunkStatus, to: ChunkStatus): boolean {
  if (from === STORED) return false;
  if (from === FAILED) return to === PENDING;
  return to > from; // FAILED comes last
}

/** A step of one of two chunks. */
const step = fc.record({
  which: fc.integer({ min: 0, max: 1 }),
  to: fc.constantFrom(...states),
  hashed: fc.boolean(),
});

const hash = "ab".repeat(32);

/** Takes the steps, and holds the session's counters against a plain model after each. */
async function walk(steps: readonly { which: number; to: ChunkStatus; hashed: boolean }[]): Promise<void> {
  const { sessions } = service;
  const { sessionId } = await newSession(sessions);
  const made = await Promise.all([0, 1].map((at) => sessions.addChunk({ sessionId, chunk: chunkInit(at) })));
  const model = made.map(({ chunk }) => ({
    chunkId: chunk?.chunkId ?? "",
    status: PENDING as ChunkStatus,
    hashed: false,
  }));
  for (const { which, to, hashed } of steps) {
    const chunk = model[which];
    if (chunk === undefined) continue;
    const isHashed = to === ENCRYPTED || (to === STORED && hashed);
    const { chunkId, status: from } = chunk;
    const call = sessions.updateChunkStatus({ chunkId, status: to, ...(isHashed && { encryptedHash: hash }) });
    if (isAllowed(from, to)) {
      expect((await call).chunk).toMatchObject({ chunkId, status: to });
      chunk.status = to;
      chunk.hashed = to !== PENDING && (chunk.hashed || isHashed);
    } else {
      const [before, after] = [from, to].map((state) => storedName(ChunkStatusSchema, state));
      expect(await refusalOf(call)).toMatchObject({
        code: "FailedPrecondition",
        reason: "ILLEGAL_TRANSITION",
        metadata: { chunk_id: chunkId, from: before, to: after },
      });
    }
    const count = (...among: ChunkStatus[]) => model.filter(({ status }) => among.includes(status));
    const processed = count(ENCRYPTED, STORED);
    expect(countersOf((await sessions.getSession({ sessionId })).session)).toEqual({
      totalChunks: 2n,
      chunksUploaded: BigInt(count(UPLOADED, PROCESSING, ENCRYPTED, STORED).length),
      chunksProcessed: BigInt(processed.length),
      chunksEncrypted: BigInt(processed.filter((each) => each.hashed).length),
      totalSizeBytes: 2001n,
    });
  }
}

test("any sequence of steps leaves chunks and counters where a plain model is", { timeout: within() }, async () => {
  const together = fc.array(fc.array(step, { maxLength: 8 }), { minLength: 20, maxLength: 20 });
  const property = fc.asyncProperty(together, async (sequences) => {
    await Promise.all(sequences.map(walk));
  });
  await fc.assert(property, runs({ numRuns: 3, endOnFailure: true }, 20));
});

import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";

import { SessionStatus, SessionStatusSchema } from "../../gen/lucid/repository/v1/session_pb.ts";
import { storedName } from "../../src/schema/stored-field.ts";
import { runs, within } from "../support/sequences.ts";
import { newSession, pipeline, someTree, type SessionsApp, sessionsApp } from "./session-support.ts";
import { refusalOf } from "./support.ts";

let service: SessionsApp;
beforeAll(async () => {
  service = await sessionsApp();
});
afterAll(() => service[Symbol.asyncDispose]());

const { FAILED, CANCELLED, COMPLETED, PENDING } = SessionStatus;
const ends: readonly SessionStatus[] = [FAILED, CANCELLED];
const states: readonly SessionStatus[] = [...pipeline, ...ends];

/** What the domain says of a step, in other words than the service has it. */
function isAllowed(from: SessionStatus, to: SessionStatus): boolean {
  if (from === COMPLETED || ends.includes(from)) return false;
  return ends.includes(to) || Number(to) === from + 1;
}

/** Mostly the next state, so that sequences come far. */
const steps = fc.array(fc.oneof({ weight: 3, arbitrary: fc.constant("next") }, fc.constantFrom(...states)), {
  maxLength: 8,
});

async function walk(sequence: readonly ("next" | SessionStatus)[]): Promise<void> {
  const { sessions } = service;
  const { sessionId } = await newSession(sessions);
  let model: SessionStatus = PENDING;
  let revision = 1n;
  for (const step of sequence) {
    const to: SessionStatus = step === "next" ? (states[pipeline.indexOf(model as never) + 1] ?? COMPLETED) : step;
    if (model === SessionStatus.MERKLE_BUILDING && to === SessionStatus.ANCHORING) {
      const refusal = await refusalOf(sessions.updateSessionStatus({ sessionId, status: to }));
      expect(refusal).toMatchObject({ code: "FailedPrecondition", reason: "MERKLE_TREE_MISSING" });
      await sessions.setMerkleTree({ sessionId, merkleTree: someTree });
      revision += 1n;
    }
    const call = sessions.updateSessionStatus({ sessionId, status: to });
    if (isAllowed(model, to)) {
      const { session } = await call;
      model = to;
      revision += 1n;
      expect(session).toMatchObject({ status: to, revision });
    } else {
      const [from, name] = [model, to].map((state) => storedName(SessionStatusSchema, state));
      expect(await refusalOf(call)).toMatchObject({
        code: "FailedPrecondition",
        reason: "ILLEGAL_TRANSITION",
        metadata: { session_id: sessionId, from, to: name },
      });
    }
  }
  expect((await sessions.getSession({ sessionId })).session).toMatchObject({ status: model, revision });
}

test("any sequence of steps leaves a session where a plain model is", { timeout: within() }, async () => {
  const together = fc.array(steps, { minLength: 20, maxLength: 20 });
  const property = fc.asyncProperty(together, async (sequences) => {
    await Promise.all(sequences.map(walk));
  });
  await fc.assert(property, runs({ numRuns: 10 }, 20));
});

test("of steps at once only those are taken that follow one another", async () => {
  const { sessions } = service;
  for (const targets of [
    Array.from({ length: 20 }, () => SessionStatus.RECORDING),
    Array.from({ length: 20 }, (_, index) => (index % 2 === 0 ? FAILED : CANCELLED)),
    states.flatMap((state) => [state, state]),
  ]) {
    const { sessionId } = await newSession(sessions);
    const calls = await Promise.allSettled(
      targets.map(async (status) => (await sessions.updateSessionStatus({ sessionId, status })).session),
    );
    const taken = calls.flatMap((call) => (call.status === "fulfilled" && call.value ? [call.value] : []));
    const inOrder = taken.toSorted((one, other) => Number(one.revision - other.revision));
    const way = [PENDING, ...inOrder.map(({ status }) => status)];
    expect(way.length).toBeGreaterThan(1);
    for (const [index, to] of way.slice(1).entries()) expect(isAllowed(way[index] as SessionStatus, to)).toBe(true);
    expect((await sessions.getSession({ sessionId })).session).toMatchObject({
      status: way.at(-1),
      revision: BigInt(way.length),
    });
  }
});

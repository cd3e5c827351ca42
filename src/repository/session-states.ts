import type { Document } from "bson";

import { SessionStatus, SessionStatusSchema } from "../../gen/lucid/repository/v1/session_pb.ts";
import { stateMachine } from "../schema/state-machine.ts";

const pipeline = [
  SessionStatus.PENDING,
  SessionStatus.RECORDING,
  SessionStatus.PROCESSING,
  SessionStatus.ENCRYPTING,
  SessionStatus.MERKLE_BUILDING,
  SessionStatus.ANCHORING,
  SessionStatus.COMPLETED,
] as const;

/** Forward through the pipeline, one state at a time; out of it from every state but the last. */
export const sessionStates = stateMachine(SessionStatusSchema, {
  ...Object.fromEntries(
    pipeline.slice(0, -1).map((state, at) => {
      const next = pipeline.slice(at + 1, at + 2);
      return [state, [...next, SessionStatus.FAILED, SessionStatus.CANCELLED]];
    }),
  ),
  [SessionStatus.COMPLETED]: [],
  [SessionStatus.FAILED]: [],
  [SessionStatus.CANCELLED]: [],
});

/** What a step to a state sets besides the state: expressions over the session as it was before. */
export function stepTimes(to: SessionStatus, now: Date): Document {
  switch (to) {
    case SessionStatus.RECORDING:
      return { started_at: now };
    case SessionStatus.PROCESSING:
      return { ended_at: now, duration_seconds: wholeSeconds("$started_at", now), processing_started_at: now };
    case SessionStatus.ANCHORING:
      return {
        processing_completed_at: now,
        processing_time_seconds: { $divide: [msSince("$processing_started_at", now), 1000] },
      };
    case SessionStatus.FAILED:
    case SessionStatus.CANCELLED:
      return {
        ended_at: ifRecording(now, "$ended_at"),
        duration_seconds: ifRecording(wholeSeconds("$started_at", now), "$duration_seconds"),
      };
    default:
      return {};
  }
}

function ifRecording(value: unknown, otherwise: string): Document {
  return { $cond: [{ $eq: ["$status", sessionStates.name(SessionStatus.RECORDING)] }, value, otherwise] };
}

function wholeSeconds(field: string, now: Date): Document {
  return { $toLong: { $floor: { $divide: [msSince(field, now), 1000] } } };
}

/** Clocks of replicas differ: what ended on one before it began on another took no time. */
function msSince(field: string, now: Date): Document {
  return { $max: [0, { $subtract: [now, field] }] };
}

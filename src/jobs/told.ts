import { type DescMessage, fromBinary, type MessageShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";

import { JobState } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import type { JobEvent, JobFailure, JobProgress, JobRecord } from "./record.ts";

/** What messages of jobs have in common, whatever their kind. */
export function toldJob({ state, error, createTime, startTime, endTime }: JobRecord) {
  return {
    state: JobState[state],
    ...toldError(error),
    createTime: timestampFromDate(createTime),
    ...(startTime && { startTime: timestampFromDate(startTime) }),
    ...(endTime && { endTime: timestampFromDate(endTime) }),
  };
}

/** The same of their events. */
export function toldEvent({ sequence, eventTime, state, error, heartbeat }: JobEvent) {
  return {
    sequence: BigInt(sequence),
    eventTime: timestampFromDate(eventTime),
    state: JobState[state],
    ...toldError(error),
    heartbeat,
  };
}

/** Progress whose detail is a message; the percentage is the job's own, which never falls. */
export function toldProgress<D extends DescMessage>(
  schema: D,
  progress: JobProgress | undefined,
): { readonly progress?: MessageShape<D> & { readonly percent: number } } {
  if (progress === undefined) return {};
  return { progress: { ...fromBinary(schema, progress.detail), percent: progress.percent } };
}

function toldError(error: JobFailure | undefined) {
  return error === undefined ? {} : { error: { ...error, metadata: { ...error.metadata } } };
}

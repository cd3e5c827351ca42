import { Code, ConnectError, type ServiceImpl } from "@connectrpc/connect";

import { type Health, HealthCheckResponse_ServingStatus as Status } from "../../gen/grpc/health/v1/health_pb.ts";
import { fail } from "../errors.ts";

/** Tells whether services serve. The empty name is the whole process. */
export interface ServingStatus {
  readonly services: ReadonlySet<string>;
  /** Whether it serves now. */
  serves(service: string, signal: AbortSignal): Promise<boolean>;
  /** Aborted when the process stops taking calls. */
  readonly draining: AbortSignal;
}

/** Time between two looks of a watch. */
const lookMs = 2000;

/** The handlers of `grpc.health.v1.Health`. */
export function healthService(status: ServingStatus): ServiceImpl<typeof Health> {
  const statusOf = async (service: string, signal: AbortSignal): Promise<Status> => {
    if (!status.services.has(service)) return Status.SERVICE_UNKNOWN;
    if (status.draining.aborted) return Status.NOT_SERVING;
    return (await status.serves(service, signal)) ? Status.SERVING : Status.NOT_SERVING;
  };
  return {
    async check({ service }, { signal }) {
      const found = await statusOf(service, signal);
      if (found === Status.SERVICE_UNKNOWN) throw new ConnectError("There is no such service", Code.NotFound);
      return { status: found };
    },
    async list(_, { signal }) {
      const entries = await Promise.all(
        Array.from(status.services, async (service) => [service, { status: await statusOf(service, signal) }] as const),
      );
      return { statuses: Object.fromEntries(entries) };
    },
    async *watch({ service }, { signal }) {
      const over = AbortSignal.any([signal, status.draining]);
      let last: Status | undefined;
      while (!over.aborted) {
        const found = await statusOf(service, signal);
        if (found !== last) yield { status: found };
        last = found;
        await untilNextLook(over);
      }
      signal.throwIfAborted();
      yield { status: Status.NOT_SERVING };
      throw fail("WATCH_INTERRUPTED", "The watch was interrupted; watch again to go on");
    },
  };
}

function untilNextLook(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, lookMs);
    signal.addEventListener("abort", done);
    if (signal.aborted) done();
  });
}

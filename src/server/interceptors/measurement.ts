import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";

/** Takes how long a call took. `failed`: it ended with an error that was not the caller's mistake. */
export type RecordCall = (rpc: string, elapsedMs: number, failed: boolean) => void;

/** Codes that say that something is wrong here, not with what the caller sent. */
const faults = new Set([Code.Unknown, Code.Internal, Code.Unavailable, Code.DataLoss, Code.DeadlineExceeded]);

/** Measures unary calls, all that is inside of it included. Streams last as long as their caller wants. */
export function measurementInterceptor(record: RecordCall): Interceptor {
  return (next) => async (request) => {
    if (request.method.methodKind !== "unary") return next(request);
    const rpc = `${request.service.typeName}/${request.method.name}`;
    const beganMs = performance.now();
    try {
      const response = await next(request);
      record(rpc, performance.now() - beganMs, false);
      return response;
    } catch (error) {
      record(rpc, performance.now() - beganMs, faults.has(ConnectError.from(error).code));
      throw error;
    }
  };
}

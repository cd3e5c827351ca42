import type { DescMethod } from "@bufbuild/protobuf";
import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";

/** Takes how long a call took. `failed`: it ended with an error that was not the caller's mistake. */
export type RecordCall = (rpc: string, elapsedMs: number, failed: boolean) => void;

/** Codes that say that something is wrong here, not with what the caller sent. */
const faults = new Set([Code.Unknown, Code.Internal, Code.Unavailable, Code.DataLoss, Code.DeadlineExceeded]);

/** Measures unary calls, all that is inside of it included. Streams last as long as their caller wants. */
export function measurementInterceptor(record: RecordCall): Interceptor {
  /** Kept, since a text that was just put together is hashed anew wherever it is looked up. */
  const names = new Map<DescMethod, string>();
  const nameOf = (method: DescMethod): string => {
    const known = names.get(method);
    if (known !== undefined) return known;
    const name = `${method.parent.typeName}/${method.name}`;
    names.set(method, name);
    return name;
  };
  return (next) => async (request) => {
    if (request.method.methodKind !== "unary") return next(request);
    const rpc = nameOf(request.method);
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

import type { HandlerContext } from "@connectrpc/connect";

import { fail } from "../errors.ts";

/** Driver options that give an operation the time that its call has left, and no more. */
export function deadlineOf(context: Pick<HandlerContext, "timeoutMs">): { maxTimeMS?: number } {
  const leftMs = context.timeoutMs();
  if (leftMs === undefined) return {};
  // The server takes 0 for no limit.
  if (leftMs <= 0) throw fail("DEADLINE_EXCEEDED", "The deadline has passed");
  return { maxTimeMS: Math.max(1, Math.floor(leftMs)) };
}

/** The same for what may take long: it also stops when the caller goes away. A signal costs more than a small call. */
export function cancellable(context: Pick<HandlerContext, "timeoutMs" | "signal">): {
  maxTimeMS?: number;
  signal: AbortSignal;
} {
  return { ...deadlineOf(context), signal: context.signal };
}

/**
 * Driver options of a statement that a caller waits for and that nobody tells its deadline: as long as a call has by itself.
 * What gives up earlier fails a call that had time left, and nobody repeats it. The driver's own `timeoutMS` does nothing (7.9.0).
 */
export const callTime = { maxTimeMS: 30_000 } as const;

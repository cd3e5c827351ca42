import { type Logger, pino } from "pino";

import type { Config } from "./config.ts";

/** The process's log: JSON lines on stdout. Errors of stores may name hosts there, never in what a caller is told. */
export function openLog({ level }: Config["log"]): Logger {
  return pino({
    level,
    base: null,
    redact: ["*.uri", "*.password", "*.authorization"],
    serializers: { err: told },
  });
}

/** What went wrong and where. The rest is left out: drivers hang whole requests on their errors, with headers and connections. */
function told(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  // With the stacks of what caused it.
  const { type, message, stack } = pino.stdSerializers.err(error);
  return { type, message, stack, ...("code" in error && { code: error.code }) };
}

import { type Logger, pino } from "pino";

import type { Config } from "./config.ts";

/** The process's log: JSON lines on stdout. Errors of stores may name hosts there, never in what a caller is told. */
export function openLog({ level }: Config["log"]): Logger {
  return pino({ level, base: null, redact: ["*.uri", "*.password", "*.authorization"] });
}

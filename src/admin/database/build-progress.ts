import type { Document } from "mongodb";

import { abortable, pause } from "../../stores/waiting.ts";
import type { NamedCollection } from "./names.ts";

/** What the server says of an index that it builds. */
export interface BuildStep {
  /** What it does, in its own words for that: `scanning collection`. */
  readonly phase: string;
  /** Documents or keys that this phase is through with, and all of them. */
  readonly done: number;
  readonly total: number;
  /** How much of the whole is done, 0 to 1. */
  readonly share: number;
}

/** Wait between two looks, in milliseconds. */
const lookMs = 1000;
/** Longest that one look takes, in milliseconds. */
const limitMs = 5000;

/**
 * Looks at what the server says of a command that builds indexes, by some of its fields, until it is disposed. Servers say nothing of small ones, and
 * nothing to a user who may not see operations: then nothing is reported.
 */
export function buildProgress(
  at: NamedCollection,
  command: Document,
  report: (step: BuildStep) => void,
): AsyncDisposable {
  const ending = new AbortController();
  const { signal } = ending;
  const look = async (): Promise<void> => {
    for (await pause(lookMs, signal); !signal.aborted; await pause(lookMs, signal)) {
      const step = stepOf(await operationsOn(at, command, signal).catch(() => []));
      if (step !== undefined && !signal.aborted) report(step);
    }
  };
  const looking = look();
  return {
    async [Symbol.asyncDispose]() {
      ending.abort();
      await looking;
    },
  };
}

/** Operations that build an index, on every shard. */
function operationsOn(at: NamedCollection, command: Document, signal: AbortSignal) {
  const stages = [{ $currentOp: { allUsers: true, idleConnections: false } }, { $match: buildsOf(at, command) }];
  const found = at.db.client.db("admin").aggregate(stages, { maxTimeMS: limitMs });
  return abortable(found.toArray(), signal);
}

/**
 * Finds them among all operations. Servers build in threads of their own, whose operations repeat the command without its
 * database, and are on the collection; those of before 4.4 build in the operation of the command itself. Threads that help name the
 * collection alone.
 */
export function buildsOf({ database, path }: Pick<NamedCollection, "database" | "path">, command: Document): Document {
  const named = Object.entries(command).map(([name, value]) => [`command.${name}`, value as unknown]);
  return {
    $or: [
      { ...Object.fromEntries(named), "command.$db": database },
      { ...Object.fromEntries(named), ns: path },
      { op: "none", ns: path, msg: /^Index Build/ },
    ],
    "progress.total": { $gt: 0 },
  };
}

/** Reading the documents takes most of it; then the sorted keys are put into the index. */
const scanningShare = 0.8;

function stepOf(operations: readonly Document[]): BuildStep | undefined {
  const [first] = operations;
  if (first === undefined) return undefined;
  let [done, total] = [0, 0];
  for (const { progress } of operations as { progress: { done: number; total: number } }[]) {
    done += progress.done;
    total += progress.total;
  }
  // `Index Build: scanning collection Index Build: scanning collection: 12000/100000 12%`
  const [, phase = ""] = /^(?:Index Build: )?(.*?)(?: Index Build)?(?::|$)/.exec(String(first["msg"] ?? "")) ?? [];
  const part = total === 0 ? 0 : Math.min(1, done / total);
  const share = phase.startsWith("scanning") ? scanningShare * part : scanningShare + (1 - scanningShare) * part;
  return { phase, done, total, share };
}

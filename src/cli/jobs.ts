import type { Command } from "commander";

import { JobState } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Failure, mayPass, tell } from "./failure.ts";
import { type Screen, screenFor } from "./job-screen.ts";
import { finalStates, type JobView } from "./job-view.ts";
import { reconnection } from "./reconnection.ts";
import type { Session } from "./session.ts";
import { readNumber, readSpan, span } from "./units.ts";

/** A job that can be followed. */
export interface FollowedJob<E> {
  /** `backup`, `restore`: how it is called in a sentence. */
  readonly noun: string;
  readonly id: string;
  /** The commands that look after such jobs: `lucid backup`. */
  readonly path: string;
  /** Opens a watch of what comes after an event. */
  readonly watch: (afterSequence: bigint) => AsyncIterable<E>;
  readonly view: (event: E) => JobView;
  /** Writes an event as JSON. */
  readonly write: (event: E) => Promise<void>;
  /** Whether the service has just told of it, so that it is known to be there. */
  readonly isBegun?: boolean;
}

/** How a watch is asked for. */
export interface WatchOptions {
  readonly after?: number;
  readonly giveUp?: number;
}

/** Adds the options of all watches of jobs. */
export function withWatchOptions(command: Command): Command {
  return command
    .option("--after <sequence>", "go on behind the event of this number", readNumber(0, Number.MAX_SAFE_INTEGER))
    .option("--give-up <time>", "how long to try to reach a service that has gone (default: 10m)", readSpan);
}

/** How long a watch tries to get through to a service that has gone. */
const defaultGiveUpMs = 600_000;

/**
 * Shows a job until it ends, and ends with what became of it. A watch that breaks goes on where it was, at whichever replica
 * answers. On a terminal it is drawn over and over, elsewhere each event is a line.
 */
export async function followJob<E>(
  session: Session,
  job: FollowedJob<E>,
  { after = 0, giveUp: giveUpMs = defaultGiveUpMs }: WatchOptions = {},
): Promise<void> {
  const { output } = session;
  const { noun, id, path } = job;
  session.leaves = `The ${noun} goes on: \`${path} watch ${id}\` shows it, \`${path} cancel ${id}\` stops it.`;
  using screen = screenFor(session, `${noun} ${id}`);
  for await (const event of resumed(session, job, { after: BigInt(after), giveUpMs, screen })) {
    const view = job.view(event);
    if (output.json) await job.write(event);
    else if (!view.heartbeat || screen.isLive) await screen.show(view);
    if (!finalStates.has(view.state)) continue;
    session.leaves = undefined;
    session.ending = view.state === JobState.SUCCEEDED ? "done" : "failure";
  }
}

/** The events of a job up to the final one, through as many watches as it takes. */
async function* resumed<E>(
  session: Session,
  { noun, id, path, watch, view, isBegun = false }: FollowedJob<E>,
  { after, giveUpMs, screen }: { readonly after: bigint; readonly giveUpMs: number; readonly screen: Screen },
): AsyncGenerator<E> {
  let last = after;
  const tries = reconnection();
  let hasHeard = isBegun;
  for (;;) {
    let why = "the watch ended early";
    try {
      for await (const event of watch(last)) {
        hasHeard = true;
        if (tries.failures > 0) screen.back();
        tries.heard();
        const { sequence, state } = view(event);
        last = sequence;
        yield event;
        if (finalStates.has(state)) return;
      }
    } catch (error) {
      // A service that never answered may not be there at all: that is to be known at once.
      if (session.signal.aborted || !hasHeard || !mayPass(error)) throw error;
      why = tell(error, session.options.address).message;
    }
    session.signal.throwIfAborted();
    if (tries.failures === 0) screen.lost(why);
    if (tries.lostMs > giveUpMs) {
      throw new Failure(
        "failure",
        `The service could not be reached again for ${span(giveUpMs)}; what became of the ${noun} is not known`,
        `Go on with \`${path} watch ${id} --after ${last}\`.`,
      );
    }
    await tries.wait(session.signal);
  }
}

import { setTimeout as sleep } from "node:timers/promises";

import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import { durationMs, type Timestamp } from "@bufbuild/protobuf/wkt";
import { ConnectError } from "@connectrpc/connect";
import type { Command } from "commander";

import {
  type JobError,
  type JobEvent,
  type JobPhase,
  JobPhaseSchema,
  type JobProgress,
  JobState,
  JobStateSchema,
} from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store, StoreSchema } from "../../gen/lucid/admin/v1/common_pb.ts";
import type { Ending } from "./exit-codes.ts";
import { Failure, isConnectionLost, tell } from "./failure.ts";
import { liveLines } from "./live.ts";
import type { Style } from "./output.ts";
import type { Session } from "./session.ts";
import { pad, safe } from "./text.ts";
import { bytes, clock, count, counted, nameOf, readNumber, readSpan, span } from "./units.ts";

/** One line of work within a job: a store, or nothing where a job has only one thing to do. */
interface Part {
  readonly name: string;
  readonly done: bigint;
  readonly total: bigint;
  readonly bytes: bigint;
}

/** What is shown of a job's event, whatever the job does. */
export interface JobView {
  readonly sequence: bigint;
  readonly time: Timestamp | undefined;
  readonly state: JobState;
  readonly error: JobError | undefined;
  readonly heartbeat: boolean;
  readonly phase: string;
  readonly percent: number;
  readonly done: bigint;
  readonly total: bigint;
  /** Undefined where the job does not count bytes. */
  readonly bytes: bigint | undefined;
  readonly bytesPerSecond: number;
  readonly timeLeftMs: number | undefined;
  readonly parts: readonly Part[];
}

/** A job that can be followed. */
export interface FollowedJob<E> {
  /** `backup`, `restore`: how it is called in a sentence. */
  readonly kind: string;
  readonly id: string;
  /** Opens a watch of what comes after an event. */
  readonly watch: (afterSequence: bigint) => AsyncIterable<E>;
  readonly view: (event: E) => JobView;
  /** Writes an event as JSON. */
  readonly write: (event: E) => Promise<void>;
  /** How to watch it again, and how to stop it: command lines. */
  readonly watchCommand: string;
  readonly cancelCommand: string;
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

/** What `followJob` takes of the options. */
export function followOptions({ after, giveUp }: WatchOptions): { after?: bigint; giveUpMs?: number } {
  return { ...(after !== undefined && { after: BigInt(after) }), ...(giveUp !== undefined && { giveUpMs: giveUp }) };
}

/** Tells of a job that has begun: its id alone goes to stdout, for scripts; `remark` says how to go on. */
export async function tellBegun<D extends DescMessage>(
  { output }: Session,
  { schema, job, id, remark }: { schema: D; job: MessageShape<D>; id: string; remark: string },
): Promise<void> {
  if (output.json) return output.message(schema, job);
  await output.line(id);
  output.note(remark);
}

/** Tells what has become of a job that was to be stopped. */
export async function tellCancelled<D extends DescMessage>(
  { output }: Session,
  schema: D,
  job: (MessageShape<D> & { readonly state: JobState }) | undefined,
): Promise<void> {
  if (job === undefined) return;
  if (output.json) await output.message(schema, job);
  else output.note(`The job is ${stateName(job.state)}.`);
}

/** How long a watch tries to get through to a service that has gone. */
const defaultGiveUpMs = 600_000;

const finalStates: ReadonlySet<JobState> = new Set([
  JobState.SUCCEEDED,
  JobState.FAILED,
  JobState.CANCELLED,
  JobState.INTERRUPTED,
]);

/**
 * Shows a job until it ends, and ends with what became of it. A watch that breaks goes on where it was, at whichever replica
 * answers. On a terminal it is drawn over and over, elsewhere each event is a line.
 */
export async function followJob<E>(
  session: Session,
  job: FollowedJob<E>,
  { after = 0n, giveUpMs = defaultGiveUpMs }: { readonly after?: bigint; readonly giveUpMs?: number } = {},
): Promise<JobView> {
  const { output } = session;
  session.leaves = `The ${job.kind} goes on: \`${job.watchCommand}\` shows it, \`${job.cancelCommand}\` stops it.`;
  using screen = screenFor(session, job);
  let last = after;
  for await (const event of resumed(session, job, { after, giveUpMs, screen })) {
    const view = job.view(event);
    if (output.json) await job.write(event);
    else if (!view.heartbeat || screen.isLive) await screen.show(view);
    last = view.sequence;
    if (!finalStates.has(view.state)) continue;
    session.leaves = undefined;
    session.ending = endingOf(view.state);
    return view;
  }
  throw new Failure(
    "failure",
    `The watch of the ${job.kind} ended after event ${last}`,
    `Go on with \`${job.watchCommand}\`.`,
  );
}

/** How a command ends that waited for a job. */
function endingOf(state: JobState): Ending {
  return state === JobState.SUCCEEDED ? "done" : "failure";
}

/** The events of a job, through as many watches as it takes. */
async function* resumed<E>(
  session: Session,
  { kind, watch, view, watchCommand }: FollowedJob<E>,
  { after, giveUpMs, screen }: { readonly after: bigint; readonly giveUpMs: number; readonly screen: Screen },
): AsyncGenerator<E> {
  let last = after;
  let lostAt: number | undefined;
  let waitMs = 0;
  let hasHeard = false;
  for (;;) {
    let why = "the watch ended early";
    try {
      for await (const event of watch(last)) {
        hasHeard = true;
        if (lostAt !== undefined) screen.back();
        lostAt = undefined;
        waitMs = 0;
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
    if (lostAt === undefined) screen.lost(why);
    lostAt ??= performance.now();
    if (performance.now() - lostAt > giveUpMs) {
      throw new Failure(
        "failure",
        `The service could not be reached again for ${span(giveUpMs)}; what became of the ${kind} is not known`,
        `Go on with \`${watchCommand} --after ${last}\`.`,
      );
    }
    waitMs = Math.min(5000, Math.max(100, waitMs * 2));
    await sleep(waitMs, undefined, { signal: session.signal });
  }
}

/** Whether a watch that ended so may go on: the service or the way to it is away for now. */
function mayPass(error: unknown): boolean {
  if (isConnectionLost(error)) return true;
  if (!(error instanceof ConnectError)) return false;
  return ["WATCH_INTERRUPTED", "DRAINING", "STORE_UNAVAILABLE"].includes(tell(error, "").reason);
}

interface Screen extends Disposable {
  readonly isLive: boolean;
  show(view: JobView): Promise<void>;
  lost(why: string): void;
  back(): void;
}

function screenFor(session: Session, { kind, id }: { readonly kind: string; readonly id: string }): Screen {
  const { output, terminal } = session;
  if (output.json || !terminal.stdout.isTTY) {
    return {
      isLive: false,
      show: async (view) => output.line(lineOf(view)),
      lost: (why) => output.note(`${sentence(why)}. Trying to reach the service again …`),
      back: () => output.note("The service is back."),
      [Symbol.dispose]: () => {},
    };
  }
  const live = liveLines(terminal.stdout);
  let newest: JobView | undefined;
  let remark = "";
  const redraw = () => {
    if (newest === undefined && remark === "") return;
    const lines = newest === undefined ? [] : screenOf(newest, `${kind} ${id}`);
    const titles = lines.length > 0 ? 1 : 0;
    live.draw(remark === "" ? lines : [...lines, remark], (line, index) => {
      if (index === 0 && titles === 1)
        return output.paint(line, newest === undefined ? undefined : styleOf(newest.state));
      return output.paint(line, index === lines.length ? "yellow" : undefined);
    });
  };
  terminal.stdout.on("resize", redraw);
  return {
    isLive: true,
    async show(view) {
      newest = view;
      redraw();
    },
    lost(why) {
      remark = `${sentence(why)}. Trying to reach the service again …`;
      redraw();
    },
    back() {
      remark = "";
      redraw();
    },
    [Symbol.dispose]() {
      terminal.stdout.off("resize", redraw);
      live[Symbol.dispose]();
    },
  };
}

function sentence(text: string): string {
  return safe(text.slice(0, 1).toUpperCase() + text.slice(1));
}

/** How a state is painted. */
export function styleOf(state: JobState): Style | undefined {
  if (state === JobState.SUCCEEDED) return "green";
  if (state === JobState.FAILED || state === JobState.INTERRUPTED) return "red";
  return state === JobState.CANCELLED || state === JobState.CANCELLING ? "yellow" : undefined;
}

/** The name of a state as people read it. */
export function stateName(state: JobState): string {
  return nameOf(JobStateSchema, state);
}

/** The name of a store as people read it. */
export function storeName(store: Store): string {
  if (store === Store.MONGODB) return "MongoDB";
  return store === Store.REDIS ? "Redis" : nameOf(StoreSchema, store);
}

/** An event on one line. */
function lineOf(view: JobView): string {
  const parts = [
    clock(view.time),
    stateName(view.state),
    ...(view.phase === "" ? [] : [view.phase]),
    `${view.percent.toFixed(1)} %`,
    amounts(view),
    ...rates(view),
    ...(view.error === undefined ? [] : [whyNot(view.error)]),
  ];
  return parts.join("  ");
}

function amounts({ done, total, bytes: doneBytes }: Pick<JobView, "done" | "total" | "bytes">): string {
  const items = total > 0n ? `${count(done)} of ${counted(total, "item")}` : counted(done, "item");
  return doneBytes === undefined ? items : `${items}  ${bytes(doneBytes)}`;
}

function rates({ state, bytesPerSecond, timeLeftMs }: JobView): readonly string[] {
  if (finalStates.has(state)) return [];
  return [
    ...(bytesPerSecond > 0 ? [`${bytes(bytesPerSecond)}/s`] : []),
    ...(timeLeftMs === undefined ? [] : [`${span(timeLeftMs)} left`]),
  ];
}

/** Why a job did not succeed, in one sentence. */
export function whyNot({ message, reason }: JobError): string {
  return `${safe(message)}${reason === "" ? "" : ` (${safe(reason)})`}`;
}

const barWidth = 30;

/** An event as some lines of a terminal. */
function screenOf(view: JobView, title: string): readonly string[] {
  const filled = Math.round((view.percent / 100) * barWidth);
  const bar = "█".repeat(filled) + "░".repeat(barWidth - filled);
  const phase = finalStates.has(view.state) || view.phase === "" ? "" : `, ${view.phase}`;
  const width = Math.max(...view.parts.map(({ name }) => name.length), 0);
  return [
    `${sentence(title)}: ${stateName(view.state)}${phase}`,
    [`${bar} ${view.percent.toFixed(1).padStart(5)} %`, ...rates(view)].join("  "),
    ...view.parts.map(
      (part) =>
        `  ${pad(part.name, width)}  ${count(part.done).padStart(11)} of ${count(part.total).padStart(11)} items  ${bytes(part.bytes).padStart(10)}`,
    ),
    ...(view.parts.length === 0 ? [`  ${amounts(view)}`] : []),
    ...(view.error === undefined ? [] : [whyNot(view.error)]),
  ];
}

/** What is shown of an event of the jobs of BackupService. */
export function viewOf(event: JobEvent | undefined): JobView {
  const { sequence = 0n, eventTime, state = JobState.UNSPECIFIED, progress, error, heartbeat = false } = event ?? {};
  return {
    sequence,
    time: eventTime,
    state,
    error,
    heartbeat,
    phase: progress === undefined ? "" : phaseName(progress.phase),
    percent: progress?.percent ?? 0,
    done: progress?.itemsDone ?? 0n,
    total: progress?.itemsTotal ?? 0n,
    bytes: progress?.bytesDone ?? 0n,
    bytesPerSecond: progress?.bytesPerSecond ?? 0,
    timeLeftMs: progress?.timeLeft === undefined ? undefined : durationMs(progress.timeLeft),
    parts: partsOf(progress),
  };
}

/** The name of a phase as people read it. */
export function phaseName(phase: JobPhase): string {
  return nameOf(JobPhaseSchema, phase);
}

/** Sums the units of each store. */
function partsOf(progress: JobProgress | undefined): readonly Part[] {
  const stores = Map.groupBy(progress?.units ?? [], ({ store }) => store);
  return [...stores].map(([store, units]) => ({
    name: storeName(store),
    done: units.reduce((sum, { itemsDone }) => sum + itemsDone, 0n),
    total: units.reduce((sum, { itemsTotal }) => sum + itemsTotal, 0n),
    bytes: units.reduce((sum, { bytesDone }) => sum + bytesDone, 0n),
  }));
}

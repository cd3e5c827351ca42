import { finalStates, type JobView, stateName, styleOf, whyNot } from "./job-view.ts";
import { liveLines } from "./live.ts";
import type { Session } from "./session.ts";
import { pad, safe } from "./text.ts";
import { bytes, clock, count, counted, span } from "./units.ts";

/** Where a job is shown while it runs: drawn over and over on a terminal, elsewhere a line for each event. */
export interface Screen extends Disposable {
  readonly isLive: boolean;
  show(view: JobView): Promise<void>;
  lost(why: string): void;
  back(): void;
}

/** Where the job of that title is shown. */
export function screenFor({ output, terminal }: Session, title: string): Screen {
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
    const lines = newest === undefined ? [] : screenOf(newest, title);
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

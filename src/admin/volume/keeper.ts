import { timestampMs } from "@bufbuild/protobuf/wkt";

import { isReason } from "../../errors.ts";
import { removeLeftovers } from "../../stores/volumes/own-files.ts";
import type { Volumes } from "../../stores/volumes/volumes.ts";
import { readHistory } from "./history.ts";
import type { Measures } from "./measures.ts";

const minuteMs = 60_000;
const firstMs = 5000;
/** A file that is written for so long belongs to a process that died. */
const staleMs = 24 * 60 * minuteMs;

/**
 * Measures all volumes again and again, so that there is a history, and removes what is left of deleted ones. Replicas that share
 * the volumes do not repeat each other's measures: each passes over what another has measured. Disposing it ends that.
 */
export function volumeKeeper(options: {
  readonly volumes: Volumes;
  readonly measures: Measures;
  /** 0: nothing is measured by itself. */
  readonly everyMinutes: number;
  readonly log: { warn(fields: object, message: string): void };
}): AsyncDisposable {
  const { volumes, measures, log } = options;
  const everyMs = options.everyMinutes * minuteMs;
  const closing = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  let round: Promise<void> = Promise.resolve();

  const measureOne = async (name: string): Promise<void> => {
    const newest = await (async () => {
      await using volume = await volumes.open(name);
      await removeLeftovers(volume.own, { beforeMs: Date.now() - staleMs, signal: closing.signal });
      return (await readHistory(volume.own)).newest?.measureTime;
    })();
    if (newest !== undefined && Date.now() - timestampMs(newest) < everyMs * 0.9) return;
    await measures.take(name, { waitMs: everyMs, signal: closing.signal });
  };

  const attempt = async (what: string, work: () => Promise<void>): Promise<void> => {
    if (closing.signal.aborted) return;
    try {
      await work();
    } catch (error) {
      // Gone since it was listed.
      if (closing.signal.aborted || isReason(error, "VOLUME_NOT_FOUND")) return;
      log.warn({ err: error }, what);
    }
  };

  const go = async (): Promise<void> => {
    await attempt("Deleted volumes could not be removed", () => volumes.removeRemains(closing));
    if (everyMs === 0) return;
    await attempt("The volumes could not be listed", async () => {
      for (const name of await volumes.names()) {
        await attempt("A volume could not be measured", () => measureOne(name));
      }
    });
  };

  const wait = (ms: number): void => {
    if (closing.signal.aborted) return;
    timer = setTimeout(() => {
      round = go().finally(() => wait(everyMs === 0 ? 60 * minuteMs : everyMs));
    }, ms).unref();
  };
  wait(firstMs);

  return {
    async [Symbol.asyncDispose]() {
      closing.abort();
      clearTimeout(timer);
      await round;
    },
  };
}

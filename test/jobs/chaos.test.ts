import { setTimeout as sleep } from "node:timers/promises";

import { array, assert, asyncProperty, integer, record } from "fast-check";
import { expect, test } from "vitest";

import { storeAddresses } from "../support/stores.ts";
import { leaseMs, progress } from "./lease.ts";
import { cuttable } from "./proxy.ts";
import { eventsOf, rig, sequences, upTo, utf8 } from "./support.ts";

/** Some cuts are shorter than the lease and some longer, so that jobs change hands. */
const cuts = array(
  record({
    which: integer({ min: 0, max: 1 }),
    calmMs: integer({ min: 50, max: 400 }),
    cutMs: integer({ min: 50, max: 4000 }),
  }),
  {
    minLength: 4,
    maxLength: 6,
  },
);

// Beside one another: they mostly wait.
test.concurrent.for([1, 2, 3])(
  "seed %i: whatever is cut off and whenever, a job ends, and its events are 1 to n, once each, the final one last",
  async (seed) => {
    await assert(
      asyncProperty(cuts, async (planned) => {
        await using r = await rig();
        await using one = await cuttable(storeAddresses().mongodbUri);
        await using other = await cuttable(storeAddresses().mongodbUri);
        const wires = [one, other];
        const calm = new AbortController();
        for (const wire of wires) {
          const replica = await r.replica({ uri: wire.uri, maxAttempts: 1000, leaseMs });
          replica.handle("work", {
            onOwnerLost: "rerun",
            async run(_job, context) {
              for (let percent = 0; percent < 99 || !calm.signal.aborted; percent += 1) {
                context.report(progress(Math.min(percent, 99)), { milestone: true });
                await sleep(20, undefined, { signal: context.signal });
              }
            },
          });
          replica.start();
        }
        const watching = await r.replica();
        await watching.create("work", { jobId: "a", spec: utf8.encode("spec") });
        const watched = eventsOf(watching, "a");
        for (const { which, calmMs, cutMs } of planned) {
          await sleep(calmMs);
          wires[which]?.cut();
          await sleep(cutMs);
          wires[which]?.mend();
        }
        calm.abort();
        const events = await watched;
        expect(sequences(events)).toEqual(upTo(events.length));
        expect(events.slice(0, -1).every(({ state }) => state === "PENDING" || state === "RUNNING")).toBe(true);
        expect(events.at(-1)?.state).toBe("SUCCEEDED");
        const percents = events.map((event) => event.progress?.percent ?? 0);
        expect(percents).toEqual(percents.toSorted((low, high) => low - high));
        expect(await eventsOf(watching, "a")).toEqual(events);
      }),
      { numRuns: 1, seed: 20_261_124 + seed },
    );
  },
);

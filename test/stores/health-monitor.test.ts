import { expect, test } from "vitest";

import { healthMonitor } from "../../src/stores/health-monitor.ts";
import { type Health, type HealthStatus, overall, type StoreHealth } from "../../src/stores/health.ts";

function found(store: StoreHealth["store"], status: HealthStatus): StoreHealth {
  const problem = status === "healthy" ? "" : "is away";
  return {
    store,
    status,
    product: "",
    version: "",
    latencyMs: Math.random(),
    checkTime: new Date(),
    problem,
    details: {},
  };
}

/** A monitor that is given what it finds, look by look; each look waits until it is told. */
function scripted() {
  const looks: PromiseWithResolvers<Health>[] = [];
  let asked = Promise.withResolvers<void>();
  const monitor = healthMonitor({
    intervalMs: 1,
    confirmMs: 1,
    check(signal) {
      const look = Promise.withResolvers<Health>();
      signal.addEventListener("abort", () => look.reject(signal.reason));
      looks.push(look);
      asked.resolve();
      return look.promise;
    },
  });
  return {
    monitor,
    /** Answers the next looks, one after the other. */
    finds: async (...states: readonly Partial<Record<StoreHealth["store"], HealthStatus>>[]): Promise<void> => {
      for (const { mongodb = "healthy", redis = "healthy", search = "healthy" } of states) {
        while (looks.length === 0) {
          asked = Promise.withResolvers();
          await asked.promise;
        }
        looks.shift()?.resolve(overall([found("mongodb", mongodb), found("redis", redis), found("search", search)]));
      }
      // The look after the last one is asked for when the last one has been taken in.
      while (looks.length === 0) {
        asked = Promise.withResolvers();
        await asked.promise;
      }
    },
  };
}

const never = new AbortController().signal;

test("the first look counts, then a state changes once two looks in a row agree", async () => {
  const { monitor, finds } = scripted();
  await using _ = monitor;
  expect(monitor.current()).toBeUndefined();
  await finds({});
  expect((await monitor.known(never)).status).toBe("healthy");
  await finds({ redis: "unhealthy" });
  expect(monitor.current()?.status).toBe("healthy");
  await finds({}, { redis: "unhealthy" }, {});
  expect(monitor.current()?.status).toBe("healthy");
  await finds({ redis: "unhealthy" }, { redis: "unhealthy" });
  expect(monitor.current()?.status).toBe("degraded");
  await finds({});
  expect(monitor.current()?.status).toBe("degraded");
  await finds({});
  expect(monitor.current()?.status).toBe("healthy");
});

test("a store that flaps does not hide what happens to another one", async () => {
  const { monitor, finds } = scripted();
  await using _ = monitor;
  await finds({}, { redis: "unhealthy", mongodb: "unhealthy" }, { mongodb: "unhealthy" });
  expect(monitor.current()?.stores.map(({ status }) => status)).toEqual(["unhealthy", "healthy", "healthy"]);
  expect(monitor.current()?.status).toBe("unhealthy");
});

test("a slow watcher gets the newest state, every watcher the changes, and times alone are no change", async () => {
  const { monitor, finds } = scripted();
  await using _ = monitor;
  const watch = monitor.changes({ signal: never });
  const first = watch.next();
  await finds({});
  expect((await first).value).toMatchObject({ health: { status: "healthy" }, heartbeat: false });
  const bad = { search: "degraded" } as const;
  await finds({}, {}, bad, bad, {}, {}, { mongodb: "unhealthy" }, { mongodb: "unhealthy" });
  expect((await watch.next()).value).toMatchObject({ health: { status: "unhealthy" }, heartbeat: false });
  const late = await monitor.changes({ signal: never }).next();
  expect(late.value).toMatchObject({ health: { status: "unhealthy" }, heartbeat: false });
  const beating = monitor.changes({ signal: never, heartbeatMs: 1 });
  await beating.next();
  expect((await beating.next()).value).toMatchObject({ health: { status: "unhealthy" }, heartbeat: true });
});

test("a watch ends with its signal's reason, and quietly when the monitor is closed", async () => {
  const { monitor, finds } = scripted();
  await finds({});
  const over = new AbortController();
  const cancelled = monitor.changes({ signal: over.signal });
  await cancelled.next();
  const waiting = cancelled.next();
  over.abort(new Error("enough"));
  await expect(waiting).rejects.toThrow("enough");
  const watch = monitor.changes({ signal: never });
  await watch.next();
  const last = watch.next();
  await monitor[Symbol.asyncDispose]();
  expect(await last).toEqual({ done: true, value: undefined });
});

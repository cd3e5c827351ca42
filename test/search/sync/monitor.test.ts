import { Registry } from "prom-client";
import { expect, test, vi } from "vitest";

import { messageOf } from "../../../src/search/indices.ts";
import { syncMonitor } from "../../../src/search/sync/monitor.ts";
import { storeAddresses } from "../../support/stores.ts";
import { newUser, syncBed } from "./support.ts";

test("an index that cannot even be begun is a concern, until it can, and tells since when", async () => {
  const soon = { timeout: 150_000, interval: 200 };
  await using bed = await syncBed(storeAddresses().searchUri);
  await bed.domain.collection("users").insertOne(newUser());
  // Something else has its name, which is not touched.
  const index = bed.indices.alias("users");
  await bed.search.client.indices.create({ index });
  await using monitor = syncMonitor({ access: bed.access, metrics: new Registry(), lagWarningMs: Infinity });
  let failures = 0;
  const problemOf = (error: unknown): string => {
    failures += 1;
    return String(error);
  };
  bed.start({ messages: [messageOf("users")], problemOf });
  monitor.start();
  await vi.waitFor(() => expect(monitor.concern()).toBe("Search indices cannot be filled: users"), soon);
  const since = async () => (await bed.access.states.find(index))?.problem_time;
  const first = await since();
  const more = failures + 4;
  await vi.waitFor(() => expect(failures).toBeGreaterThanOrEqual(more), soon);
  expect(first).toBeInstanceOf(Date);
  expect(await since()).toEqual(first);
  await bed.search.client.indices.delete({ index });
  await bed.settled("users");
  await vi.waitFor(async () => expect(await since()).toBeUndefined(), soon);
  await vi.waitFor(() => expect(monitor.concern()).toBe(""), soon);
});

import { expect, test } from "vitest";

import { JobState } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { SearchIndexService } from "../../gen/lucid/search/v1/search_index_service_pb.ts";
import { SearchSyncService, SyncPhase } from "../../gen/lucid/search/v1/search_sync_service_pb.ts";
import { type Command, openRouter } from "../admin/database/router.ts";
import { patient, testApp } from "../support/app.ts";
import { storeAddresses } from "../support/stores.ts";

const soon = { timeout: 150_000 };

test("work on an index goes on where a statement of it took too long", async () => {
  /** Each takes too long once. */
  const late = new Map<string, (command: Command) => boolean>();
  await using server = await openRouter(storeAddresses().mongodbUri, (command) => {
    const [name] = [...late].find(([, is]) => is(command)) ?? [];
    if (name === undefined) return undefined;
    late.delete(name);
    return { ok: 0, code: 50, codeName: "MaxTimeMSExpired", errmsg: "operation exceeded time limit" };
  });
  await using app = await testApp({ LUCID_MONGODB_URI: patient(server.uri), LUCID_SEARCH_SYNC: "on" });
  const [indices, sync] = [app.client(SearchIndexService), app.client(SearchSyncService)];
  const status = async () => (await sync.getSyncStatus({ indices: ["users"] })).indices[0];
  await expect.poll(status, soon).toMatchObject({ phase: SyncPhase.FOLLOWING });

  late.set("the right to rebuild", ({ findAndModify, query }) => {
    return findAndModify === "leases" && (query as { _id: string })._id.startsWith("search_rebuild");
  });
  const { job } = await indices.rebuildIndex({ index: "users" });
  const rebuilt = async () => (await indices.getIndexJob({ jobId: job?.jobId ?? "" })).job?.state;
  await expect.poll(rebuilt, soon).toBe(JobState.SUCCEEDED);

  late.set("documents", ({ find, sort }) => find === "users" && "user_id" in ((sort as object | undefined) ?? {}));
  const { comparison } = await sync.compareIndex({ index: "users" });
  const compared = async () =>
    (await sync.getComparison({ comparisonId: comparison?.comparisonId ?? "" })).comparison?.state;
  await expect.poll(compared, soon).toBe(JobState.SUCCEEDED);
  expect([...late.keys()]).toEqual([]);
});

import { randomUUID } from "node:crypto";

import { createClient, createRouterTransport } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";

import { ManifestValidationStatus } from "../../gen/lucid/repository/v1/manifest_pb.ts";
import { ManifestService } from "../../gen/lucid/repository/v1/manifest_service_pb.ts";
import { domainCollections } from "../../src/repository/collections.ts";
import { manifestService } from "../../src/repository/manifest.ts";
import { pageTokens } from "../../src/schema/page-tokens.ts";
import { hashOf, manifestInit, newManifest, newSession, upTo } from "./manifest-support.ts";
import { expectIndexed, usesIndexBesideFilter, type WatchedDb, watchedDb } from "./plans.ts";

let plans: WatchedDb;
beforeAll(async () => {
  plans = await watchedDb();
});
afterAll(() => plans[Symbol.asyncDispose]());

/** The handlers on a real store, which is asked through collections that write down the filters. */
function service() {
  const { watched, db } = plans;
  const tokens = pageTokens("");
  const handlers = manifestService({
    db: watched,
    collections: domainCollections(db, ({ name }) => expect.unreachable(name)),
    pageTokens: async () => tokens,
  });
  return createClient(
    ManifestService,
    createRouterTransport(({ service: serve }) => {
      serve(ManifestService, handlers);
    }),
  );
}

/** Makes collections large, so that the server has a reason to choose. */
async function fill(): Promise<void> {
  const { db } = plans;
  const fillers = upTo(2000).map((index) => ({
    manifest_id: `filler${index}`,
    session_id: `filler${index}`,
    merkle_root: hashOf(index),
    chunk_count: 1n,
    validation_status: index % 3 === 0 ? "VALID" : "INVALID",
    blockchain_anchored: index % 2 === 0,
    created_at: new Date(index),
  }));
  await db.collection("manifests").insertMany(fillers);
  await newSession(db, upTo(2000));
}

test("chunks are read from the index of their session, in its order", async () => {
  const { db, asked } = plans;
  const manifests = service();
  const { manifestId } = await newManifest(manifests, { sessionId: await newSession(db, upTo(5)) });
  await manifests.validateManifest({ manifestId });
  await manifests.getInclusionProof({ manifestId, chunkIndex: 2n });
  await manifests.getConsistencyProof({ manifestId, firstSize: 2n });
  await fill();
  const ofChunks = asked.filter(({ collection }) => collection === "chunks");
  // Two to find the last chunk, four to read all of them.
  expect(ofChunks).toHaveLength(6);
  for (const each of ofChunks) await expectIndexed(db, each);
});

test("no read of manifests scans the collection, on any page of any order and filter", async ({ skip }) => {
  const { db, asked } = plans;
  if (!(await usesIndexBesideFilter(db))) skip("this server scans where a filter names a field outside the index");
  const manifests = service();
  const made = [];
  for (const _ of upTo(4)) made.push(await newManifest(manifests, manifestInit({ sessionId: randomUUID() })));
  const [one] = made;
  await manifests.getManifest({ manifestId: one?.manifestId ?? "" });
  await manifests.getManifestBySession({ sessionId: one?.sessionId ?? "" });
  const validationStatus = ManifestValidationStatus.PENDING;
  const filters = [
    {},
    { validationStatus },
    { blockchainAnchored: false },
    { validationStatus, blockchainAnchored: false },
  ];
  for (const filter of filters.flatMap((each) => [each, { ...each, createdFrom: { seconds: 1_700_000_000n } }])) {
    for (const orderBy of ["", "created_at"]) {
      for (const showDeleted of [false, true]) {
        const request = { filter, orderBy, showDeleted, pageSize: 2 };
        const { nextPageToken: pageToken } = await manifests.listManifests(request);
        expect(pageToken).not.toBe("");
        await manifests.listManifests({ ...request, pageToken });
      }
    }
  }
  const ofManifests = asked.filter(({ collection }) => collection === "manifests");
  expect(ofManifests.length).toBeGreaterThanOrEqual(66);
  for (const each of ofManifests) await expectIndexed(db, each);
});

import { randomUUID } from "node:crypto";

import { afterAll, beforeAll, expect, test } from "vitest";

import type { Manifest } from "../../gen/lucid/repository/v1/manifest_pb.ts";
import { ManifestService } from "../../gen/lucid/repository/v1/manifest_service_pb.ts";
import { MerkleAlgorithm } from "../../gen/lucid/repository/v1/merkle_pb.ts";
import { hashOf, manifestInit, type ManifestsApp, manifestsApp, newManifest } from "./manifest-support.ts";
import { type ManifestCall, type Manifests, missing, proofRefusals } from "./proof-refusals.ts";
import { bad, deep, long, nothing, type Refusal, stale, untried } from "./refusals.ts";
import { refusalOf } from "./support.ts";

const blockchainTransactionId = hashOf("transaction");

function create(manifests: Manifests, init: Parameters<typeof manifestInit>[0]) {
  return manifests.createManifest({ manifest: manifestInit(init) });
}

function update(manifests: Manifests, manifestId: string, ...paths: string[]) {
  return manifests.updateManifest({ manifest: { manifestId }, updateMask: { paths } });
}

/** What each rpc refuses. */
const refusals: readonly Refusal<ManifestCall>[] = [
  ["createManifest: nothing", (manifests) => manifests.createManifest({}), bad("manifest")],
  ["createManifest: no session", (manifests) => create(manifests, { sessionId: "" }), bad("manifest.session_id")],
  ["createManifest: long session", (manifests) => create(manifests, { sessionId: long }), bad("manifest.session_id")],
  [
    "createManifest: root in upper case",
    (manifests) => create(manifests, { merkleRoot: "A".repeat(64) }),
    bad("manifest.merkle_root"),
  ],
  [
    "createManifest: root with a line break",
    (manifests) => create(manifests, { merkleRoot: `${hashOf(0)}\n` }),
    bad("manifest.merkle_root"),
  ],
  [
    "createManifest: a megabyte of root",
    (manifests) => create(manifests, { merkleRoot: "a".repeat(1_000_000) }),
    bad("manifest.merkle_root"),
  ],
  [
    "createManifest: unknown algorithm",
    (manifests) => create(manifests, { merkleAlgorithm: 99 as never }),
    bad("manifest.merkle_algorithm"),
  ],
  [
    "createManifest: root of no chunks",
    (manifests) => create(manifests, { chunkCount: 0n }),
    bad("manifest.chunk_count"),
  ],
  [
    "createManifest: too many chunks",
    (manifests) => create(manifests, { chunkCount: 2n ** 31n }),
    bad("manifest.chunk_count"),
  ],
  ["createManifest: negative size", (manifests) => create(manifests, { totalSize: -1n }), bad("manifest.total_size")],
  [
    "createManifest: count and size without a root",
    (manifests) => create(manifests, { merkleRoot: "" }),
    bad("manifest.chunk_count", "manifest.total_size"),
  ],
  [
    "createManifest: another tree without a root",
    (manifests) =>
      create(manifests, { merkleRoot: "", chunkCount: 0n, totalSize: 0n, merkleAlgorithm: MerkleAlgorithm.OTHER }),
    bad("manifest.merkle_root"),
  ],
  [
    "createManifest: null character in metadata",
    (manifests) => create(manifests, { metadata: { "a\0": 1 } }),
    bad("manifest.metadata"),
  ],
  ["createManifest: deep metadata", (manifests) => create(manifests, { metadata: deep(31) }), bad("manifest.metadata")],
  [
    "createManifest: a megabyte of metadata",
    (manifests) => create(manifests, { metadata: { a: "x".repeat(1_000_000) } }),
    bad("manifest.metadata"),
  ],
  [
    "createManifest: request_id",
    (manifests) => manifests.createManifest({ manifest: manifestInit(), requestId: "1" }),
    bad("request_id"),
  ],
  [
    "createManifest: session that has one",
    (manifests, { sessionId }) => create(manifests, { sessionId }),
    {
      code: "AlreadyExists",
      reason: "MANIFEST_ALREADY_EXISTS",
      metadata: { field: "session_id" },
      fields: ["manifest.session_id"],
    },
  ],
  ["getManifest: no id", (manifests) => manifests.getManifest({}), bad("manifest_id")],
  ["getManifest: long id", (manifests) => manifests.getManifest({ manifestId: long }), bad("manifest_id")],
  ["getManifest: none", (manifests) => manifests.getManifest({ manifestId: nothing }), missing],
  [
    "getManifest: none, deleted or not",
    (manifests) => manifests.getManifest({ manifestId: nothing, showDeleted: true }),
    missing,
  ],
  [
    "getManifest: an operator as id",
    (manifests) => manifests.getManifest({ manifestId: '{"$ne":null}' }),
    { reason: "MANIFEST_NOT_FOUND" },
  ],
  ["getManifestBySession: nothing", (manifests) => manifests.getManifestBySession({}), bad("session_id")],
  [
    "getManifestBySession: long id",
    (manifests) => manifests.getManifestBySession({ sessionId: long }),
    bad("session_id"),
  ],
  [
    "getManifestBySession: none",
    (manifests) => manifests.getManifestBySession({ sessionId: ".*\0" }),
    { code: "NotFound", reason: "MANIFEST_NOT_FOUND", metadata: { session_id: ".*\0" } },
  ],
  ["updateManifest: nothing", (manifests) => manifests.updateManifest({}), bad("manifest")],
  ["updateManifest: no id", (manifests) => manifests.updateManifest({ manifest: { metadata: {} } }), bad("manifest")],
  [
    "updateManifest: long id",
    (manifests) => manifests.updateManifest({ manifest: { manifestId: long } }),
    bad("manifest.manifest_id"),
  ],
  [
    "updateManifest: none",
    (manifests) => manifests.updateManifest({ manifest: { manifestId: nothing, metadata: {} } }),
    missing,
  ],
  [
    "updateManifest: long session",
    (manifests, { manifestId }) => manifests.updateManifest({ manifest: { manifestId, sessionId: long } }),
    bad("manifest.session_id"),
  ],
  [
    "updateManifest: large metadata",
    (manifests, { manifestId }) =>
      manifests.updateManifest({ manifest: { manifestId, metadata: { a: "x".repeat(300_000) } } }),
    bad("manifest.metadata"),
  ],
  [
    "updateManifest: unknown field",
    (manifests, { manifestId }) => update(manifests, manifestId, "proof"),
    bad("update_mask"),
  ],
  [
    "updateManifest: below free data",
    (manifests, { manifestId }) => update(manifests, manifestId, "metadata.a"),
    bad("update_mask"),
  ],
  [
    "updateManifest: below an immutable field",
    (manifests, { manifestId }) => update(manifests, manifestId, "merkle_root.x"),
    bad("update_mask"),
  ],
  [
    "updateManifest: an operator",
    (manifests, { manifestId }) => update(manifests, manifestId, "$set"),
    bad("update_mask"),
  ],
  [
    "updateManifest: stale etag",
    (manifests, { manifestId }) => manifests.updateManifest({ manifest: { manifestId, metadata: {} }, etag: '"99"' }),
    stale,
  ],
  [
    "updateManifest: long etag",
    (manifests, { manifestId }) => manifests.updateManifest({ manifest: { manifestId }, etag: long }),
    bad("etag"),
  ],
  [
    "recordManifestAnchor: nothing",
    (manifests) => manifests.recordManifestAnchor({}),
    bad("manifest_id", "blockchain_transaction_id"),
  ],
  [
    "recordManifestAnchor: negative height",
    (manifests, { manifestId }) =>
      manifests.recordManifestAnchor({ manifestId, blockchainTransactionId, blockchainBlockHeight: -1n }),
    bad("blockchain_block_height"),
  ],
  [
    "recordManifestAnchor: time that cannot be stored",
    (manifests, { manifestId }) =>
      manifests.recordManifestAnchor({
        manifestId,
        blockchainTransactionId,
        blockchainTimestamp: { seconds: 253_402_300_800n },
      }),
    bad("blockchain_timestamp"),
  ],
  [
    "recordManifestAnchor: none",
    (manifests) => manifests.recordManifestAnchor({ manifestId: nothing, blockchainTransactionId }),
    missing,
  ],
  [
    "recordManifestAnchor: stale etag",
    (manifests, { manifestId }) =>
      manifests.recordManifestAnchor({ manifestId, blockchainTransactionId, etag: '"99"' }),
    stale,
  ],
  [
    "recordManifestAnchor: long etag",
    (manifests, { manifestId }) => manifests.recordManifestAnchor({ manifestId, blockchainTransactionId, etag: long }),
    bad("etag"),
  ],
  ["validateManifest: no id", (manifests) => manifests.validateManifest({}), bad("manifest_id")],
  ["validateManifest: none", (manifests) => manifests.validateManifest({ manifestId: nothing }), missing],
  ["deleteManifest: no id", (manifests) => manifests.deleteManifest({}), bad("manifest_id")],
  ["deleteManifest: none", (manifests) => manifests.deleteManifest({ manifestId: nothing }), missing],
  [
    "deleteManifest: none, only checked",
    (manifests) => manifests.deleteManifest({ manifestId: nothing, validateOnly: true }),
    missing,
  ],
  [
    "deleteManifest: stale etag",
    (manifests, { manifestId }) => manifests.deleteManifest({ manifestId, etag: '"99"' }),
    stale,
  ],
  [
    "deleteManifest: long etag",
    (manifests, { manifestId }) => manifests.deleteManifest({ manifestId, etag: long }),
    bad("etag"),
  ],
  ["undeleteManifest: no id", (manifests) => manifests.undeleteManifest({}), bad("manifest_id")],
  ["undeleteManifest: none", (manifests) => manifests.undeleteManifest({ manifestId: nothing }), missing],
  [
    "undeleteManifest: not deleted",
    (manifests, { manifestId }) => manifests.undeleteManifest({ manifestId }),
    { code: "FailedPrecondition", reason: "MANIFEST_NOT_DELETED" },
  ],
  [
    "undeleteManifest: long etag",
    (manifests, { manifestId }) => manifests.undeleteManifest({ manifestId, etag: long }),
    bad("etag"),
  ],
  ["listManifests: negative size", (manifests) => manifests.listManifests({ pageSize: -1 }), bad("page_size")],
  [
    "listManifests: long token",
    (manifests) => manifests.listManifests({ pageToken: "x".repeat(2049) }),
    bad("page_token"),
  ],
  [
    "listManifests: made-up token",
    (manifests) => manifests.listManifests({ pageToken: "abc" }),
    { code: "InvalidArgument", reason: "PAGE_TOKEN_INVALID" },
  ],
  ["listManifests: long order", (manifests) => manifests.listManifests({ orderBy: long }), bad("order_by")],
  [
    "listManifests: order that no index gives",
    (manifests) => manifests.listManifests({ orderBy: "merkle_root" }),
    bad("order_by"),
  ],
  [
    "listManifests: unknown status",
    (manifests) => manifests.listManifests({ filter: { validationStatus: 9 as never } }),
    bad("filter.validation_status"),
  ],
  [
    "countManifests: unknown status",
    (manifests) => manifests.countManifests({ filter: { validationStatus: 9 as never } }),
    bad("filter.validation_status"),
  ],
  ...proofRefusals,
];

let service: ManifestsApp;
let made: Manifest;
beforeAll(async () => {
  service = await manifestsApp();
  made = await newManifest(service.manifests, manifestInit({ sessionId: randomUUID() }));
});
afterAll(() => service[Symbol.asyncDispose]());

test("every rpc is refused something here", () => {
  expect(untried(ManifestService, refusals)).toEqual([]);
});

test.for(refusals)("%s", async ([, call, expected]) => {
  expect(await refusalOf(call(service.manifests, made))).toMatchObject(expected);
  expect(await refusalOf(call(service.overHttp, made))).toMatchObject(expected);
  // What was refused has changed nothing.
  expect((await service.manifests.getManifest({ manifestId: made.manifestId })).manifest).toStrictEqual(made);
});

import { randomUUIDv7 } from "node:crypto";

import { create } from "@bufbuild/protobuf";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";

import { type Manifest, ManifestSchema } from "../../gen/lucid/repository/v1/manifest_pb.ts";
import * as rpc from "../../gen/lucid/repository/v1/manifest_service_pb.ts";
import { fail } from "../errors.ts";
import { hex } from "../proofs/merkle.ts";
import { codecFor } from "../schema/codec.ts";
import { requestMark } from "../schema/create-once.ts";
import { documentResponse } from "../schema/document-response.ts";
import { entity } from "../schema/entity.ts";
import { literal, matching } from "../schema/expressions.ts";
import { onlyWritable } from "../schema/field-mask.ts";
import { badRequest } from "../schema/refusals.ts";
import { chunkCount, chunkTree } from "./chunk-leaves.ts";
import type { Repositories } from "./collections.ts";
import { documentOf, filterOf, isComputed, prepared } from "./manifest-document.ts";
import { manifestProofs } from "./manifest-proofs.ts";
import { differences, needKnownTree } from "./manifest-validation.ts";

const codec = codecFor(ManifestSchema);

const created = documentResponse(rpc.CreateManifestResponseSchema, "manifest");
const got = documentResponse(rpc.GetManifestResponseSchema, "manifest");
const gotBySession = documentResponse(rpc.GetManifestBySessionResponseSchema, "manifest");
const updated = documentResponse(rpc.UpdateManifestResponseSchema, "manifest");
const anchored = documentResponse(rpc.RecordManifestAnchorResponseSchema, "manifest");
const validated = documentResponse(rpc.ValidateManifestResponseSchema, "manifest");
const deleted = documentResponse(rpc.DeleteManifestResponseSchema, "manifest");
const undeleted = documentResponse(rpc.UndeleteManifestResponseSchema, "manifest");
const listed = documentResponse(rpc.ListManifestsResponseSchema, "manifests");

/** Keeps manifests of sessions, and proves by them what belongs to a session. */
export function manifestService({
  db,
  collections,
  pageTokens,
}: Repositories): ServiceImpl<typeof rpc.ManifestService> {
  const manifests = entity({
    db,
    schema: ManifestSchema,
    id: "manifest_id",
    name: "manifest",
    reasons: {
      notFound: "MANIFEST_NOT_FOUND",
      alreadyExists: "MANIFEST_ALREADY_EXISTS",
      notDeleted: "MANIFEST_NOT_DELETED",
    },
    ready: collections.ready,
    pageTokens,
  });

  const liveOne = (manifestId: string, context: HandlerContext) =>
    manifests.get(manifests.live(manifestId), context, { manifest_id: manifestId });
  const manifestOf = async (manifestId: string, context: HandlerContext) =>
    codec.decode(await liveOne(manifestId, context));

  /** The same manifest with what the chunks of its session come to. */
  const computed = async (manifest: Manifest, context: HandlerContext) => {
    const { sessionId } = manifest;
    // Without any chunk, the first is the one that is missing.
    const count = Math.max(1, await chunkCount(db, sessionId, context));
    const { root, totalSize } = await chunkTree(db, { sessionId, count }, context);
    return { ...manifest, merkleRoot: hex(root), chunkCount: BigInt(count), totalSize };
  };

  return {
    ...manifestProofs(db, manifestOf),

    async createManifest(request, context) {
      const sent = prepared(onlyWritable(ManifestSchema, request.manifest ?? codec.decode({})));
      sent.manifestId = randomUUIDv7();
      // What is refused anyway is refused before the chunks are read.
      documentOf(sent, () => true);
      const mark = requestMark(rpc.CreateManifestRequestSchema, request);
      // A retry neither reads all chunks again nor fails where they have gone.
      const first = await manifests.createdBefore(mark, context);
      if (first !== null) return created([first]);
      const manifest = isComputed(sent) ? await computed(sent, context) : sent;
      const { document } = await manifests.insert(
        documentOf(manifest, () => true),
        context,
        mark,
      );
      return created([document]);
    },

    async getManifest({ manifestId, showDeleted }, context) {
      const filter = showDeleted ? { manifest_id: manifestId } : manifests.live(manifestId);
      return got([await manifests.get(filter, context, { manifest_id: manifestId })]);
    },

    async getManifestBySession({ sessionId }, context) {
      const filter = { session_id: sessionId, deleted_at: null };
      return gotBySession([await manifests.get(filter, context, { session_id: sessionId })]);
    },

    async updateManifest({ manifest: sent, updateMask, etag }, context) {
      if (sent === undefined) throw badRequest({ field: "manifest", description: "must be set" });
      const found = await manifests.update(
        { schema: ManifestSchema, message: sent, mask: updateMask, etag, id: sent.manifestId },
        (isChanged) => documentOf(onlyWritable(ManifestSchema, sent), isChanged),
        context,
      );
      return updated([found]);
    },

    async recordManifestAnchor(request, context) {
      const { manifestId, blockchainTransactionId: transactionId, blockchainBlockHeight: height, etag } = request;
      const { blockchainTimestamp } = request;
      const now = new Date();
      // The codec refuses a time that cannot be stored.
      const time = create(ManifestSchema, { ...(blockchainTimestamp !== undefined && { blockchainTimestamp }) });
      const { blockchain_timestamp: said } = codec.encode(time);
      const set = {
        blockchain_anchored: true,
        blockchain_transaction_id: literal(transactionId),
        ...(height !== undefined && { blockchain_block_height: height }),
        blockchain_timestamp: said ?? { $ifNull: ["$blockchain_timestamp", now] },
      };
      // The first transaction stays: the store compares it, so that of two at once one is refused.
      const filter = { deleted_at: null, blockchain_transaction_id: { $in: [null, transactionId] }, ...matching(etag) };
      const found = await manifests.change(manifestId, { stages: [{ $set: set }], filter, now }, context);
      if (found !== null) return anchored([found]);
      const other = (await manifestOf(manifestId, context)).blockchainTransactionId;
      if (other === undefined || other === transactionId) throw await manifests.whyNot(manifestId, context);
      throw fail("MANIFEST_ALREADY_ANCHORED", `The manifest ${manifestId} is anchored by another transaction`, {
        metadata: { manifest_id: manifestId, blockchain_transaction_id: other },
      });
    },

    async validateManifest({ manifestId }, context) {
      const began = new Date();
      const manifest = await manifestOf(manifestId, context);
      needKnownTree(manifest);
      const errors = await differences(db, manifest, context);
      const set = {
        validation_status: errors.length === 0 ? "VALID" : "INVALID",
        validation_errors: errors.length === 0 ? "$$REMOVE" : literal(errors),
        validated_at: began,
      };
      // A comparison that began later has seen later chunks: its result stays.
      const filter = { deleted_at: null, validated_at: { $not: { $gt: began } } };
      const found = await manifests.change(manifestId, { stages: [{ $set: set }], filter }, context);
      return validated([found ?? (await liveOne(manifestId, context))]);
    },

    async deleteManifest({ manifestId, etag, validateOnly }, context) {
      return deleted([await manifests.delete(manifestId, { etag, validateOnly }, context)]);
    },

    async undeleteManifest({ manifestId, etag }, context) {
      return undeleted([await manifests.undelete(manifestId, { etag }, context)]);
    },

    async listManifests(request, context) {
      const query = filterOf(request.filter, request.showDeleted);
      const schema = rpc.ListManifestsRequestSchema;
      const { documents, nextPageToken } = await manifests.list(
        { ...query, fallback: "created_at desc", schema, request },
        context,
      );
      return listed(documents, { nextPageToken });
    },

    async countManifests({ filter, showDeleted }, context) {
      return { count: await manifests.count(filterOf(filter, showDeleted).filter, context) };
    },
  };
}

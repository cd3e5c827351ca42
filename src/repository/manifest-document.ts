import type { Document } from "bson";

import {
  type Manifest,
  ManifestSchema,
  ManifestValidationStatus,
  ManifestValidationStatusSchema,
} from "../../gen/lucid/repository/v1/manifest_pb.ts";
import type { ManifestFilter } from "../../gen/lucid/repository/v1/manifest_service_pb.ts";
import { MerkleAlgorithm } from "../../gen/lucid/repository/v1/merkle_pb.ts";
import { codecFor } from "../schema/codec.ts";
import { filteredBy } from "../schema/list-query.ts";
import { badRequest, tooLarge, type WrongField } from "../schema/refusals.ts";
import { storedName } from "../schema/stored-field.ts";

const codec = codecFor(ManifestSchema);

/** Whether the service is to compute what the manifest commits to. Fails with `BAD_REQUEST` where that is half said. */
export function isComputed(sent: Manifest): boolean {
  const wrong: WrongField[] = [];
  if (sent.sessionId === "") wrong.push({ field: "manifest.session_id", description: "must be set" });
  const isOther = sent.merkleAlgorithm === MerkleAlgorithm.OTHER;
  if (sent.merkleRoot !== "") {
    if (sent.chunkCount === 0n)
      wrong.push({ field: "manifest.chunk_count", description: "must be set with merkle_root" });
  } else {
    if (isOther)
      wrong.push({ field: "manifest.merkle_root", description: "must be set where merkle_algorithm is OTHER" });
    for (const [name, value] of [
      ["chunk_count", sent.chunkCount],
      ["total_size", sent.totalSize],
    ] as const) {
      if (value !== 0n) wrong.push({ field: `manifest.${name}`, description: "must be set with merkle_root only" });
    }
  }
  if (wrong.length > 0) throw badRequest(...wrong);
  return sent.merkleRoot === "";
}

/** Makes a manifest, a copy of what a caller sent, the new one that is stored. */
export function prepared(manifest: Manifest): Manifest {
  if (manifest.merkleAlgorithm === MerkleAlgorithm.UNSPECIFIED)
    manifest.merkleAlgorithm = MerkleAlgorithm.RFC6962_SHA256;
  manifest.validationStatus = ManifestValidationStatus.PENDING;
  return manifest;
}

/** The document of a manifest; `isStored` says which top fields are. Fails with `BAD_REQUEST`. */
export function documentOf(manifest: Manifest, isStored: (name: string) => boolean): Document {
  const document = codec.encode(manifest, "manifest");
  const wrong = isStored("metadata") ? tooLarge("manifest.metadata", document["metadata"]) : [];
  if (wrong.length > 0) throw badRequest(...wrong);
  return document;
}

/** The documents that a filter means, and what an index must serve for it. */
export function filterOf(filter: ManifestFilter | undefined, showDeleted: boolean) {
  const { validationStatus = 0, blockchainAnchored, createdFrom, createdBefore } = filter ?? {};
  const equal: Document = {
    ...(validationStatus !== 0 && { validation_status: storedName(ManifestValidationStatusSchema, validationStatus) }),
    ...(blockchainAnchored !== undefined && { blockchain_anchored: blockchainAnchored }),
  };
  return filteredBy(equal, { createdFrom, createdBefore, showDeleted });
}

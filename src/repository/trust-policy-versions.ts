import { create } from "@bufbuild/protobuf";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext } from "@connectrpc/connect";
import { type Document, serialize } from "bson";

import {
  type TrustPolicy,
  TrustPolicySchema,
  TrustPolicyVersionSchema,
} from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import {
  type ListTrustPolicyVersionsRequest,
  ListTrustPolicyVersionsRequestSchema,
} from "../../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import { fail } from "../errors.ts";
import { cancellable, deadlineOf } from "../schema/call-options.ts";
import { codecFor } from "../schema/codec.ts";
import { collectionOf } from "../schema/collection.ts";
import { duplicateKey } from "../schema/create-once.ts";
import { listDocuments } from "../schema/document-list.ts";
import { type Entity } from "../schema/entity.ts";
import { sum } from "../schema/expressions.ts";
import type { Repositories } from "./collections.ts";
import { counterFields } from "./trust-policy-document.ts";
import { tooMany } from "./trust-policy-evaluation.ts";

const codec = codecFor(TrustPolicySchema);
const versionCodec = codecFor(TrustPolicyVersionSchema);

/** A change that makes a new version. */
export interface VersionedChange {
  readonly policyId: string;
  /** The etag that the policy must have; empty for any. */
  readonly etag: string;
  /** Reads the policy, and fails where it is none that can be changed so. */
  readonly read: () => Promise<Uint8Array>;
  /** Changes it where it still has the revision that `filter` says; null where it has another. */
  readonly write: (policy: TrustPolicy, filter: Document) => Promise<Uint8Array | null>;
}

/** The versions of policies: the one that holds is the policy itself, those before it are kept beside it. */
export interface PolicyVersions {
  /** Carries out a change, after it has kept what was there before it. Fails with `ETAG_MISMATCH`. */
  change(change: VersionedChange, context: HandlerContext): Promise<TrustPolicy>;
  /** One version of a policy; fails where it has not had that. */
  get(policy: TrustPolicy, version: bigint, context: HandlerContext): Promise<TrustPolicy>;
  /** The version that held at a time; undefined where there was none. */
  asOf(policy: TrustPolicy, time: Date, context: HandlerContext): Promise<TrustPolicy | undefined>;
  /** The policies that were live at a time in the past, and that `filter` finds now or may have found then. */
  allAsOf(filter: Document, time: Date, most: number, context: HandlerContext): Promise<TrustPolicy[]>;
  list(
    policy: TrustPolicy,
    request: ListTrustPolicyVersionsRequest,
    context: HandlerContext,
  ): Promise<{ policies: TrustPolicy[]; nextPageToken: string }>;
}

/** What a change sets besides, so that it makes a new version. Of two versions the later one never has the earlier time. */
export function nextVersion(now: Date): Document {
  return { version: sum("$version", 1n), version_time: { $max: ["$version_time", now] } };
}

/** How often a change that names no etag is tried again when others come in between. Of many at once, one gets through each time. */
const mostTries = 100;

export function policyVersions({ db, collections, pageTokens }: Repositories, policies: Entity): PolicyVersions {
  const versions = db.collection(collectionOf(TrustPolicyVersionSchema).name);

  /** Keeps a version. It stays as it was kept first: what a version says never changes. */
  const keep = async (policy: TrustPolicy, context: HandlerContext) => {
    const { policy_id, version, ...row } = rowOf(policy);
    try {
      await versions.updateOne({ policy_id, version }, { $setOnInsert: row }, { upsert: true, ...deadlineOf(context) });
    } catch (error) {
      // Of two who keep the same version at once, one comes second.
      if (duplicateKey(error) === undefined) throw error;
    }
  };

  const kept = (document: Uint8Array): TrustPolicy => {
    const { policy } = versionCodec.decode(document);
    return policy ?? create(TrustPolicySchema);
  };

  return {
    async change({ policyId, etag, read, write }, context) {
      await collections.ready(TrustPolicyVersionSchema);
      for (let attempt = 1; attempt <= mostTries; attempt++) {
        const policy = codec.decode(await read());
        if (etag !== "" && etag !== policy.etag) {
          throw fail("ETAG_MISMATCH", `The trust policy ${policyId} was changed meanwhile`, {
            metadata: { policy_id: policyId, etag: policy.etag },
          });
        }
        // Before the change, so that no crash can come between it and the loss of what was there. If it never comes, the copy
        // says the same as the policy.
        await keep(policy, context);
        const written = await write(policy, { revision: policy.revision });
        if (written !== null) return codec.decode(written);
      }
      throw fail("STORE_CONFLICT", `Others keep changing the trust policy ${policyId}`, {
        metadata: { policy_id: policyId },
      });
    },

    async get(policy, version, context) {
      if (version === policy.version) return policy;
      const { policyId } = policy;
      const found =
        version > policy.version
          ? null
          : await versions.findOne<Uint8Array>({ policy_id: policyId, version }, { raw: true, ...deadlineOf(context) });
      if (found !== null) return kept(found);
      throw fail("TRUST_POLICY_VERSION_NOT_FOUND", `The trust policy ${policyId} has had no version ${version}`, {
        metadata: { policy_id: policyId, version: String(version) },
      });
    },

    async asOf(policy, time, context) {
      if (policy.versionTime !== undefined && timestampMs(policy.versionTime) <= time.getTime()) return policy;
      const found = await versions.findOne<Uint8Array>(
        { policy_id: policy.policyId, version_time: { $lte: time }, version: { $lt: policy.version } },
        { sort: { version_time: -1, version: -1 }, raw: true, ...deadlineOf(context) },
      );
      return found === null ? undefined : kept(found);
    },

    async allAsOf(filter, time, most, context) {
      const limits = cancellable(context);
      // First those that are as they were then. One that changes between the two reads is found twice, and not lost.
      const held = await policies.collection
        .find<Uint8Array>({ ...filter, version_time: { $lte: time } }, { raw: true, limit: most + 1, ...limits })
        .toArray();
      const changed = await policies.collection
        .find(
          { version_time: { $gt: time }, created_at: { $lte: time } },
          { projection: { policy_id: 1 }, limit: most + 1, ...limits },
        )
        .toArray();
      if (held.length > most || changed.length > most) throw tooMany("policies", most);
      const ids = changed.map(({ policy_id }) => policy_id as string);
      const before = await versions
        .aggregate<Uint8Array>(
          [
            { $match: { policy_id: { $in: ids }, version_time: { $lte: time } } },
            { $sort: { policy_id: 1, version_time: -1, version: -1 } },
            { $group: { _id: "$policy_id", policy: { $first: "$policy" } } },
            { $replaceRoot: { newRoot: "$policy" } },
            { $match: filter },
          ],
          { raw: true, ...limits },
        )
        .toArray();
      const found = [...held, ...before].map((document) => codec.decode(document));
      return [...new Map(found.map((policy) => [policy.policyId, policy])).values()];
    },

    async list(policy, request, context) {
      const { documents, nextPageToken } = await listDocuments(
        { collection: versions, schema: TrustPolicyVersionSchema, id: "version", pageTokens },
        {
          filter: { policy_id: policy.policyId, version: { $lt: policy.version } },
          restrictions: { equal: ["policy_id"] },
          fallback: "version desc",
          first: serialize(rowOf(policy)),
          schema: ListTrustPolicyVersionsRequestSchema,
          request,
        },
        context,
      );
      return { policies: documents.map(kept), nextPageToken };
    },
  };
}

function rowOf(policy: TrustPolicy): Document {
  const { policyId, version, versionTime } = policy;
  const row = versionCodec.encode(
    create(TrustPolicyVersionSchema, { policyId, version, ...(versionTime && { versionTime }), policy }),
  );
  // What is counted is no part of a version.
  const { policy: stored } = row as { policy: Document }; // it was given one
  for (const name of counterFields) delete stored[name];
  return row;
}

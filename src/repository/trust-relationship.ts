import { randomUUIDv7 } from "node:crypto";

import { type Timestamp, timestampFromDate, timestampMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { Document } from "bson";

import type { TrustParty } from "../../gen/lucid/repository/v1/trust_party_pb.ts";
import * as rpc from "../../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import {
  type TrustRelationship,
  TrustRelationshipSchema,
} from "../../gen/lucid/repository/v1/trust_relationship_pb.ts";
import { fail, isReason } from "../errors.ts";
import { codecFor } from "../schema/codec.ts";
import { requestMark } from "../schema/create-once.ts";
import { documentResponse } from "../schema/document-response.ts";
import { entity } from "../schema/entity.ts";
import { literal, matching } from "../schema/expressions.ts";
import { onlyWritable } from "../schema/field-mask.ts";
import { badRequest, tooLarge } from "../schema/refusals.ts";
import type { Repositories } from "./collections.ts";

const codec = codecFor(TrustRelationshipSchema);
const verificationCodec = codecFor(rpc.VerifyTrustRelationshipRequestSchema);

/** What a verification sets where it says so, under the names that a relationship has for it too. */
const verifiable = new Set(["trust_level", "trust_score", "expires_at"]);

const established = documentResponse(rpc.EstablishTrustRelationshipResponseSchema, "trust_relationship");
const got = documentResponse(rpc.GetTrustRelationshipResponseSchema, "trust_relationship");
const listed = documentResponse(rpc.ListTrustRelationshipsResponseSchema, "trust_relationships");
const verified = documentResponse(rpc.VerifyTrustRelationshipResponseSchema, "trust_relationship");
const revoked = documentResponse(rpc.RevokeTrustRelationshipResponseSchema, "trust_relationship");

type Handlers = Pick<
  ServiceImpl<typeof rpc.TrustPolicyService>,
  | "establishTrustRelationship"
  | "getTrustRelationship"
  | "listTrustRelationships"
  | "verifyTrustRelationship"
  | "revokeTrustRelationship"
>;

/** Keeps who trusts whom. A relationship that was revoked is one that is deleted, and nothing brings it back. */
export function trustRelationships({ db, collections, pageTokens }: Repositories): Handlers {
  const relationships = entity({
    db,
    schema: TrustRelationshipSchema,
    id: "relationship_id",
    name: "trust_relationship",
    reasons: { notFound: "TRUST_RELATIONSHIP_NOT_FOUND", alreadyExists: "TRUST_RELATIONSHIP_ALREADY_EXISTS" },
    ready: collections.ready,
    pageTokens,
  });

  const get = async (relationshipId: string, context: HandlerContext, showRevoked = false) => {
    const filter = showRevoked ? { relationship_id: relationshipId } : relationships.live(relationshipId);
    return relationships.get(filter, context, { relationship_id: relationshipId });
  };

  /** Revokes what has expired where another is to be; false where nothing has. */
  const makeRoom = async ({ _links, relationship_type }: Document, context: HandlerContext): Promise<boolean> => {
    const now = new Date();
    const isOver = { deleted_at: null, expires_at: { $lte: now } };
    const found = await relationships.find(
      { _links: { $in: _links as string[] }, relationship_type, ...isOver },
      context,
    );
    if (found === null) return false;
    const { relationshipId } = codec.decode(found);
    const stages = [{ $set: { deleted_at: now, revocation_reason: "It had expired, and another was established" } }];
    return (await relationships.change(relationshipId, { stages, filter: isOver, now }, context)) !== null;
  };

  return {
    async establishTrustRelationship(request, context) {
      const { trustRelationship: sent } = request;
      if (sent === undefined) throw badRequest({ field: "trust_relationship", description: "must be set" });
      const document = documentOf(sent);
      const mark = requestMark(rpc.EstablishTrustRelationshipRequestSchema, request);
      // It may have expired since.
      const first = await relationships.createdBefore(mark, context);
      if (first !== null) return established([first]);
      checkExpiry("trust_relationship.expires_at", sent.expiresAt);
      for (;;) {
        try {
          const { document: stored } = await relationships.insert(document, context, mark);
          return established([stored]);
        } catch (error) {
          if (!isReason(error, "TRUST_RELATIONSHIP_ALREADY_EXISTS")) throw error;
          // Two relationships are in the way at most, and each is revoked once.
          if (!(await makeRoom(document, context))) throw alreadyEstablished(error);
        }
      }
    },

    async getTrustRelationship({ relationshipId, showRevoked }, context) {
      return got([await get(relationshipId, context, showRevoked)]);
    },

    async listTrustRelationships(request, context) {
      const schema = rpc.ListTrustRelationshipsRequestSchema;
      const { documents, nextPageToken } = await relationships.list(
        { ...filterOf(request), fallback: "created_at desc", schema, request },
        context,
      );
      return listed(documents, { nextPageToken });
    },

    async verifyTrustRelationship(request, context) {
      const { relationshipId, expiresAt, etag } = request;
      checkExpiry("expires_at", expiresAt);
      const now = new Date();
      const told = Object.entries(verificationCodec.encode(request)).filter(([name]) => verifiable.has(name));
      const set = {
        last_verified: now,
        ...Object.fromEntries(told.map(([name, value]) => [name, literal(value)])),
      };
      const filter = { deleted_at: null, expires_at: { $not: { $lte: now } }, ...matching(etag) };
      const found = await relationships.change(relationshipId, { stages: [{ $set: set }], filter, now }, context);
      if (found !== null) return verified([found]);
      const { expiresAt: expiredAt } = codec.decode(await get(relationshipId, context));
      if (expiredAt === undefined || timestampMs(expiredAt) > now.getTime()) {
        throw await relationships.whyNot(relationshipId, context);
      }
      throw fail("TRUST_RELATIONSHIP_EXPIRED", `The trust relationship ${relationshipId} has expired`, {
        metadata: { relationship_id: relationshipId, expired_at: new Date(timestampMs(expiredAt)).toISOString() },
      });
    },

    async revokeTrustRelationship({ relationshipId, reason, etag }, context) {
      const set = reason === "" ? {} : { revocation_reason: literal(reason) };
      return revoked([await relationships.delete(relationshipId, { etag, validateOnly: false, set }, context)]);
    },
  };
}

/** The document of a relationship, with what it is found by. */
function documentOf(sent: TrustRelationship): Document {
  const relationship = onlyWritable(TrustRelationshipSchema, sent);
  const { subject, target, bidirectional } = relationship;
  if (subject === undefined || target === undefined) {
    throw badRequest({ field: "trust_relationship", description: "must have a subject and a target" });
  }
  relationship.relationshipId = randomUUIDv7();
  relationship.establishedAt = timestampFromDate(new Date());
  const document = codec.encode(relationship, "trust_relationship");
  const wrong = tooLarge("trust_relationship.metadata", document["metadata"] as Document | undefined);
  if (wrong.length > 0) throw badRequest(...wrong);
  const ways = bidirectional ? [[subject, target] as const, [target, subject] as const] : [[subject, target] as const];
  return {
    ...document,
    _from: ways.map(([from]) => partyKey(from)),
    _to: ways.map(([, to]) => partyKey(to)),
    _links: ways.map(([from, to]) => linkKey(from, to)),
  };
}

function filterOf({ filter, showExpired, showRevoked }: rpc.ListTrustRelationshipsRequest) {
  const { from, to, relationshipType = "" } = filter ?? {};
  const equal: Document = {
    ...(from !== undefined && to !== undefined
      ? { _links: linkKey(from, to) }
      : { ...(from && { _from: partyKey(from) }), ...(to && { _to: partyKey(to) }) }),
    ...(relationshipType !== "" && { relationship_type: relationshipType }),
  };
  return {
    filter: {
      ...equal,
      ...(!showExpired && { expires_at: { $not: { $lte: new Date() } } }),
      ...(!showRevoked && { deleted_at: null }),
    },
    restrictions: { equal: Object.keys(equal) },
  };
}

/** A party as one text. No type has a colon. */
function partyKey({ type, id }: TrustParty): string {
  return `${type}:${id}`;
}

/** Two parties as one text that no other two have. */
function linkKey(from: TrustParty, to: TrustParty): string {
  return JSON.stringify([partyKey(from), partyKey(to)]);
}

function checkExpiry(field: string, expiresAt: Timestamp | undefined): void {
  if (expiresAt === undefined || timestampMs(expiresAt) > Date.now()) return;
  throw badRequest({ field, description: "must be a time to come" });
}

function alreadyEstablished(cause: unknown) {
  const fields = ["subject", "target", "relationship_type"].map((name) => `trust_relationship.${name}`);
  return fail("TRUST_RELATIONSHIP_ALREADY_EXISTS", "There is a trust relationship of that type between the two", {
    metadata: { fields: fields.join(", ") },
    fields: fields.map((field) => ({ field, description: "are those of another relationship" })),
    cause,
  });
}

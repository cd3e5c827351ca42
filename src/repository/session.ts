import { randomUUIDv7 } from "node:crypto";

import type { ServiceImpl } from "@connectrpc/connect";

import { ChunkSchema } from "../../gen/lucid/repository/v1/chunk_pb.ts";
import { SessionEncryptionKeySchema } from "../../gen/lucid/repository/v1/session_encryption_key_pb.ts";
import { SessionSchema, SessionStatus, SessionStatusSchema } from "../../gen/lucid/repository/v1/session_pb.ts";
import * as rpc from "../../gen/lucid/repository/v1/session_service_pb.ts";
import { fail } from "../errors.ts";
import { codecFor } from "../schema/codec.ts";
import { requestMark } from "../schema/create-once.ts";
import { documentResponse } from "../schema/document-response.ts";
import { literal } from "../schema/expressions.ts";
import { onlyWritable } from "../schema/field-mask.ts";
import { badRequest } from "../schema/refusals.ts";
import type { Repositories } from "./collections.ts";
import { secretsOf } from "./secrets.ts";
import { anchorRpcs } from "./session-anchor.ts";
import { chunkRpcs } from "./session-chunks.ts";
import { documentOf, prepared } from "./session-document.ts";
import { sessionEntities } from "./session-entity.ts";
import { filterOf, searchFilter, watchedBy } from "./session-query.ts";
import { sessionStates, stepTimes } from "./session-states.ts";
import { sessionManifest, statisticsOf } from "./session-statistics.ts";
import { storedNumber, type Watches } from "./watch/watches.ts";

const codec = codecFor(SessionSchema);

const created = documentResponse(rpc.CreateSessionResponseSchema, "session");
const got = documentResponse(rpc.GetSessionResponseSchema, "session");
const batch = documentResponse(rpc.BatchGetSessionsResponseSchema, "sessions");
const updated = documentResponse(rpc.UpdateSessionResponseSchema, "session");
const stepped = documentResponse(rpc.UpdateSessionStatusResponseSchema, "session");
const deleted = documentResponse(rpc.DeleteSessionResponseSchema, "session");
const undeleted = documentResponse(rpc.UndeleteSessionResponseSchema, "session");
const listed = documentResponse(rpc.ListSessionsResponseSchema, "sessions");
const told = documentResponse(rpc.WatchSessionsResponseSchema, "session");
const searched = documentResponse(rpc.SearchSessionsResponseSchema, "sessions");

/** Keeps sessions. Reads go from stored bytes to wire bytes; the store itself decides whether a step is allowed. */
export function sessionService({
  db,
  collections,
  pageTokens,
  watches,
}: Repositories & { readonly watches: Pick<Watches, "of"> }): ServiceImpl<typeof rpc.SessionService> {
  const { sessions, chunks, counters } = sessionEntities({ db, collections, pageTokens });
  const watched = watches.of({ schema: SessionSchema, id: "session_id", steps: { field: "status", only: true } });
  const keys = secretsOf(db, {
    schema: SessionEncryptionKeySchema,
    name: "encryption_key",
    resource: SessionSchema.name,
    refusals: ["SESSION_ALREADY_EXISTS"],
  });

  return {
    ...chunkRpcs({ db, sessions, chunks, counters, ready: () => collections.ready(ChunkSchema), pageTokens }),

    ...anchorRpcs({ db, sessions, counters }),

    async createSession(request, context) {
      const session = prepared(onlyWritable(SessionSchema, request.session ?? codec.decode({})));
      session.sessionId = randomUUIDv7();
      session.status = SessionStatus.PENDING;
      const document = documentOf(session, () => true);
      // Its key is looked at before that.
      const mark = () => requestMark(rpc.CreateSessionRequestSchema, request);
      const insert = () => sessions.insert(document, context, mark());
      await collections.ready(SessionEncryptionKeySchema);
      const { document: stored } = await keys.create(
        { session_id: session.sessionId },
        request.encryptionKey,
        insert,
        context,
      );
      return created(await counters.upToDate([stored], context));
    },

    async getSession({ sessionId, showDeleted }, context) {
      const filter = showDeleted ? { session_id: sessionId } : sessions.live(sessionId);
      const found = await sessions.get(filter, context, { session_id: sessionId });
      return got(await counters.upToDate([found], context));
    },

    async batchGetSessions({ sessionIds }, context) {
      const { documents, missing } = await sessions.batch(sessionIds, context);
      return batch(await counters.upToDate(documents, context), { missingSessionIds: missing });
    },

    async updateSession({ session: sent, updateMask, etag }, context) {
      if (sent === undefined) throw badRequest({ field: "session", description: "must be set" });
      const found = await sessions.update(
        { schema: SessionSchema, message: sent, mask: updateMask, etag, id: sent.sessionId },
        (isChanged) => documentOf(prepared(onlyWritable(SessionSchema, sent)), isChanged),
        context,
      );
      return updated(await counters.upToDate([found], context));
    },

    async updateSessionStatus({ sessionId, status, errorMessage, etag }, context) {
      const now = new Date();
      const set = {
        ...stepTimes(status, now),
        ...(errorMessage !== undefined && { error_message: literal(errorMessage) }),
      };
      // Without a tree there is nothing to anchor.
      const filter = status === SessionStatus.ANCHORING ? { "merkle_tree.root_hash": { $exists: true } } : {};
      const step = { machine: sessionStates, to: status, set, filter, etag, now };
      const found = await sessions.step(sessionId, step, context);
      if (found === null) {
        throw fail("MERKLE_TREE_MISSING", `Session ${sessionId} has no Merkle tree`, {
          metadata: { session_id: sessionId },
        });
      }
      return stepped(await counters.upToDate([found], context));
    },

    async setSessionEncryptionKey({ sessionId, encryptionKey }, context) {
      await collections.ready(SessionEncryptionKeySchema);
      await sessions.get(sessions.live(sessionId), context, { session_id: sessionId });
      await keys.replace({ session_id: sessionId }, encryptionKey, context);
      return {};
    },

    async deleteSession({ sessionId, etag, validateOnly }, context) {
      const found = await sessions.delete(sessionId, { etag, validateOnly }, context);
      return deleted(await counters.upToDate([found], context));
    },

    async undeleteSession({ sessionId, etag }, context) {
      const found = await sessions.undelete(sessionId, { etag }, context);
      return undeleted(await counters.upToDate([found], context));
    },

    async listSessions(request, context) {
      const query = filterOf(request.filter, request.showDeleted);
      const schema = rpc.ListSessionsRequestSchema;
      const { documents, nextPageToken } = await sessions.list(
        { ...query, fallback: "created_at desc", schema, request },
        context,
      );
      return listed(await counters.upToDate(documents, context), { nextPageToken });
    },

    async countSessions({ filter, showDeleted }, context) {
      return { count: await sessions.count(filterOf(filter, showDeleted).filter, context) };
    },

    async getSessionStatistics({ sessionId }, context) {
      const found = await sessions.get(sessions.live(sessionId), context, { session_id: sessionId });
      return { statistics: await statisticsOf(db, codec.decode(found), context) };
    },

    async getSessionManifest({ sessionId }, context) {
      const found = await sessions.get(sessions.live(sessionId), context, { session_id: sessionId });
      return { manifest: await sessionManifest(db, codec.decode(found), context) };
    },

    async searchSessions(request, context) {
      const filter = { deleted_at: null, ...searchFilter(request) };
      const { documents, nextPageToken } = await sessions.list(
        { filter, fallback: "session_id", schema: rpc.SearchSessionsRequestSchema, request },
        context,
      );
      return searched(await counters.upToDate(documents, context), { nextPageToken });
    },

    async *watchSessions(request, context) {
      const { filter, existing } = watchedBy(request);
      const call = { schema: rpc.WatchSessionsRequestSchema, request, filter, existing };
      for await (const { type, id: sessionId, revision, document, known, resumeToken } of watched.watch(
        call,
        context,
      )) {
        const status = storedNumber(SessionStatusSchema, known["status"]);
        yield told(document === undefined ? [] : [document], { type, sessionId, revision, status, resumeToken });
      }
    },
  };
}

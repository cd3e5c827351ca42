import type { Command } from "commander";

import {
  CachedSessionSchema,
  ClearCachedSessionsResponseSchema,
  DeleteCachedSessionResponseSchema,
  DocumentCacheService,
} from "../../../gen/lucid/repository/v1/document_cache_service_pb.ts";
import { withExamples } from "../examples.ts";
import { showList, withLimit } from "../lists.ts";
import type { Session } from "../session.ts";
import { counted, duration, nothing } from "../units.ts";

interface OfUser {
  readonly user?: string;
}

/** `lucid cache session …`: copies in the cache; the sessions themselves stay as they are. */
export function defineSessions(command: Command, session: Session): void {
  const client = () => session.client(DocumentCacheService);

  withExamples(
    withLimit(command.command("ls"))
      .description("List the sessions that the cache has copies of")
      .option("--user <user>", "only those of this user")
      .action(async ({ limit, user: userId = "" }: OfUser & { limit: number }) => {
        await showList(session, {
          schema: CachedSessionSchema,
          limit,
          columns: [
            { title: "SESSION", of: ({ sessionId }) => sessionId },
            { title: "USER", of: (each) => each.userId || nothing },
            { title: "REVISION", of: ({ revision }) => String(revision), align: "right" },
            { title: "GOES IN", of: ({ ttl }) => duration(ttl), align: "right" },
          ],
          none: "The cache has no such sessions.",
          async page(page) {
            const { sessions, nextPageToken } = await client().listCachedSessions({ userId, ...page }, session.call());
            return { items: sessions, nextPageToken };
          },
        });
      }),
    "lucid cache session ls",
    "lucid cache session ls --user ada",
  );

  withExamples(
    command
      .command("rm")
      .description("Remove the copy of a session, so that it is read from MongoDB again; the session stays")
      .argument("<session>", "id of the session")
      .action(async (sessionId: string) => {
        const response = await client().deleteCachedSession({ sessionId }, session.call());
        if (session.output.json) return session.output.message(DeleteCachedSessionResponseSchema, response);
        session.output.note(response.found ? "Removed." : "There was no copy.");
      }),
    "lucid cache session rm 019ab0f2-…",
  );

  withExamples(
    command
      .command("clear")
      .description("Remove the copies of a user's sessions, or of all; the sessions stay")
      .option("--user <user>", "only those of this user")
      .action(async ({ user: userId = "" }: OfUser) => {
        const response = await client().clearCachedSessions({ userId }, session.call());
        if (session.output.json) return session.output.message(ClearCachedSessionsResponseSchema, response);
        session.output.note(`Removed ${counted(response.deletedCount, "copy", "copies")}.`);
      }),
    "lucid cache session clear --user ada",
  );
}

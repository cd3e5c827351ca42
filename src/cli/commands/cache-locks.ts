import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { type Command, Option } from "commander";

import {
  CacheService,
  ClearRateLimitResponseSchema,
  GetLockResponseSchema,
  LockSchema,
  RateLimitSchema,
} from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { withExamples } from "../examples.ts";
import { showList, withLimit } from "../lists.ts";
import type { Session } from "../session.ts";
import { count, duration, nothing, readSpan, time } from "../units.ts";

/** `lucid cache limit …`. */
export function defineLimits(command: Command, session: Session): void {
  const client = () => session.client(CacheService);
  withExamples(
    withLimit(command.command("ls"))
      .description("List rate limits that are in use")
      .option("--prefix <text>", "only those whose name begins so")
      .action(async ({ limit, prefix = "" }: { limit: number; prefix?: string }) => {
        await showList(session, {
          schema: RateLimitSchema,
          limit,
          columns: [
            { title: "LIMIT", of: ({ name }) => name },
            { title: "WINDOW", of: ({ window }) => duration(window), align: "right" },
            { title: "USED", of: ({ used }) => count(used), align: "right" },
            { title: "OF", of: (each) => count(each.limit), align: "right" },
            { title: "FREE IN", of: ({ resetAfter }) => duration(resetAfter), align: "right" },
          ],
          none: "No rate limit is in use.",
          async page(page) {
            const { rateLimits, nextPageToken } = await client().listRateLimits(
              { namePrefix: prefix, ...page },
              session.call(),
            );
            return { items: rateLimits, nextPageToken };
          },
        });
      }),
    "lucid cache limit ls --prefix login:",
  );
  withExamples(
    command
      .command("clear")
      .description("Forget what a rate limit has counted")
      .argument("<limit>", "name of the limit")
      .addOption(new Option("--window <time>", "its window, for example 60s").argParser(readSpan).makeOptionMandatory())
      .action(async (name: string, { window }: { window: number }) => {
        const response = await client().clearRateLimit({ name, window: durationFromMs(window) }, session.call());
        if (session.output.json) return session.output.message(ClearRateLimitResponseSchema, response);
        session.output.note(response.found ? "Cleared." : "It was not in use.");
      }),
    "lucid cache limit clear login:ada --window 60s",
  );
}

/** `lucid cache lock …`. */
export function defineLocks(command: Command, session: Session): void {
  const client = () => session.client(CacheService);
  withExamples(
    withLimit(command.command("ls"))
      .description("List locks that are held")
      .option("--prefix <text>", "only those whose name begins so")
      .action(async ({ limit, prefix = "" }: { limit: number; prefix?: string }) => {
        await showList(session, {
          schema: LockSchema,
          limit,
          columns: [
            { title: "LOCK", of: ({ name }) => name },
            { title: "HOLDER", of: ({ holder }) => holder || nothing },
            { title: "FENCING NUMBER", of: ({ fencingNumber }) => String(fencingNumber), align: "right" },
            { title: "SINCE", of: ({ acquireTime }) => time(acquireTime) },
            { title: "LEFT", of: ({ ttl }) => duration(ttl), align: "right" },
          ],
          none: "No lock is held.",
          async page(page) {
            const { locks, nextPageToken } = await client().listLocks({ namePrefix: prefix, ...page }, session.call());
            return { items: locks, nextPageToken };
          },
        });
      }),
    "lucid cache lock ls",
  );
  withExamples(
    command
      .command("show")
      .description("Show one lock")
      .argument("<lock>", "name of the lock")
      .action(async (name: string) => {
        const response = await client().getLock({ name }, session.call());
        if (session.output.json) return session.output.message(GetLockResponseSchema, response);
        const { lock } = response;
        if (lock === undefined) return session.output.note("It is not held.");
        await session.output.facts([
          ["lock", lock.name],
          ["holder", lock.holder || nothing],
          ["fencing number", String(lock.fencingNumber)],
          ["since", time(lock.acquireTime)],
          ["left", duration(lock.ttl)],
        ]);
      }),
    "lucid cache lock show nightly",
  );
}

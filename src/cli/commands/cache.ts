import { toJson } from "@bufbuild/protobuf";
import { durationFromMs, ValueSchema } from "@bufbuild/protobuf/wkt";
import { type Command, Option } from "commander";

import {
  type CacheKey,
  CacheKeySchema,
  CacheService,
  type Content,
  ContentFormat,
  ContentFormatSchema,
  DeleteKeysResponseSchema,
  FlushKeysResponseSchema,
  GetCacheMemoryResponseSchema,
  GetCacheStatsResponseSchema,
  type GetKeyResponse,
  GetKeyResponseSchema,
  KeyOriginSchema,
  type ServerMemory,
  SetCondition,
  SetKeyResponseSchema,
} from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { enumOption } from "../choices.ts";
import { withExamples } from "../examples.ts";
import { Failure } from "../failure.ts";
import { readBytes } from "../input.ts";
import { showList, withLimit } from "../lists.ts";
import { liveLines } from "../live.ts";
import type { Column } from "../output.ts";
import type { Session } from "../session.ts";
import { safe } from "../text.ts";
import { bytes, count, counted, duration, nameOf, nothing, readSpan } from "../units.ts";
import { defineLimits, defineLocks } from "./cache-locks.ts";
import { defineMessages } from "./cache-messages.ts";
import { defineSessions } from "./cache-sessions.ts";

/** `lucid cache …`. */
export function define(cache: Command, session: Session): void {
  defineFigures(cache, session);
  defineKeys(cache, session);
  defineFlush(cache, session);
  defineMessages(cache, session);
  defineSessions(cache.command("session").description("Copies of sessions, which save reads of MongoDB"), session);
  defineLimits(cache.command("limit").description("Rate limits that services share"), session);
  defineLocks(cache.command("lock").description("Locks that services hold"), session);
}

function defineFigures(cache: Command, session: Session): void {
  const client = () => session.client(CacheService);
  withExamples(
    cache
      .command("stats")
      .description("Show how much is in the cache, and how well it serves")
      .action(async () => {
        const response = await client().getCacheStats({}, session.call());
        if (session.output.json) return session.output.message(GetCacheStatsResponseSchema, response);
        const { stats } = response;
        await session.output.facts([
          [
            "server",
            `${response.product} ${response.version}, ${counted(response.primaryCount, "primary", "primaries")}`,
          ],
          ["keys", `${count(stats?.keys ?? 0n)}, of which ${count(response.expiringKeys)} expire`],
          ["memory", `${bytes(stats?.usedMemoryBytes ?? 0n)}, at most ${bytes(stats?.peakMemoryBytes ?? 0n)} so far`],
          ["found", `${((stats?.hitRate ?? 0) * 100).toFixed(1)} % of lookups`],
          ["commands", `${count(stats?.operationsPerSecond ?? 0n)} a second`],
          ["connections", count(stats?.connections ?? 0n)],
          ["gone", `${count(response.expiredKeys)} expired, ${count(response.evictedKeys)} evicted`],
          ["up for", duration(stats?.uptime)],
        ]);
      }),
    "lucid cache stats",
  );
  withExamples(
    cache
      .command("memory")
      .description("Show what takes up memory, server by server")
      .action(async () => {
        const response = await client().getCacheMemory({}, session.call());
        if (session.output.json) return session.output.message(GetCacheMemoryResponseSchema, response);
        await session.output.table(response.servers, memoryColumns);
      }),
    "lucid cache memory",
  );
}

function defineKeys(cache: Command, session: Session): void {
  const client = () => session.client(CacheService);

  withExamples(
    withLimit(cache.command("ls"))
      .description("List keys, in no order, without making the server wait")
      .argument("[pattern]", "only keys that match this: * for any characters, ? for one; quote it")
      .option("--type <type>", "only keys of this type, such as hash")
      .option("--names", "only names, which costs the server less")
      .action(async (pattern: string = "", options: { limit: number; type?: string; names?: boolean }) => {
        const { limit, type = "", names: namesOnly = false } = options;
        await showList(session, {
          schema: CacheKeySchema,
          limit,
          columns: namesOnly ? keyColumns.slice(0, 1) : keyColumns,
          none: "There are no such keys.",
          async page(page) {
            const { keys, nextPageToken } = await client().scanKeys(
              { pattern, type, namesOnly, ...page },
              session.call(),
            );
            return { items: keys, nextPageToken };
          },
        });
      }),
    "lucid cache ls 'lucid:*' --limit 20",
    "lucid cache ls --type hash --json | jq -r .key",
  );

  withExamples(
    withLimit(cache.command("get"))
      .description("Show the value of a key, of any type")
      .argument("<key>", "the key")
      .addOption(enumOption("--format <format>", "how bytes are shown", ContentFormatSchema))
      .action(
        async (key: string, { limit, format = ContentFormat.UNSPECIFIED }: { limit: number; format?: ContentFormat }) =>
          showKey(session, key, { limit, format }),
      ),
    "lucid cache get greeting",
    "lucid cache get 'user:ada' --format json",
  );

  withExamples(
    cache
      .command("set")
      .description("Set a key to a text, or to the bytes of a file")
      .argument("<key>", "the key")
      .argument("<value>", "the text, @FILE, or - for stdin")
      .option("--ttl <time>", "how long it stays; for ever where not said", readSpan)
      .option("--keep-ttl", "it goes when it would have gone before")
      .addOption(new Option("--if <condition>", "only where it is there, or is not").choices(["absent", "present"]))
      .action(
        async (key: string, value: string, options: { ttl?: number; keepTtl?: boolean; if?: "absent" | "present" }) => {
          const { ttl, keepTtl = false } = options;
          const conditions = { absent: SetCondition.IF_ABSENT, present: SetCondition.IF_PRESENT } as const;
          const request = {
            name: { case: "key", value: key },
            value: { case: "raw", value: await readBytes(session, value, "value") },
            keepTtl,
            ...(ttl !== undefined && { ttl: durationFromMs(ttl) }),
            ...(options.if !== undefined && { condition: conditions[options.if] }),
          } as const;
          const response = await client().setKey(request, session.call());
          if (session.output.json) await session.output.message(SetKeyResponseSchema, response);
          else session.output.note("Set.");
        },
      ),
    "lucid cache set greeting hello --ttl 10m",
    "lucid cache set config @config.json --if absent",
  );

  withExamples(
    cache
      .command("rm")
      .description("Delete keys")
      .argument("<key...>", "the keys, at most 1000")
      .option("--dry-run", "only say which are there")
      .action(async (keys: string[], { dryRun = false }: { dryRun?: boolean }) => {
        if (!dryRun) await session.confirm(`This deletes ${counted(keys.length, "key")}`, keys[0] ?? "");
        const response = await client().deleteKeys({ keys, validateOnly: dryRun }, session.call());
        if (session.output.json) return session.output.message(DeleteKeysResponseSchema, response);
        session.output.note(
          `${dryRun ? "It would delete" : "Deleted"} ${count(response.foundCount)} of ${counted(keys.length, "key")}.`,
        );
      }),
    "lucid cache rm greeting",
    "lucid cache ls 'tmp:*' --names --json | jq -r '.key // empty' | xargs -d '\\n' lucid cache rm --yes",
  );
}

function defineFlush(cache: Command, session: Session): void {
  const client = () => session.client(CacheService);
  withExamples(
    cache
      .command("flush")
      .description("Delete all keys that match a pattern, leaving room for others meanwhile")
      .argument("<pattern>", "the pattern; '*' means all of the database")
      .option("--dry-run", "only count what would be deleted")
      .action(async (pattern: string, { dryRun = false }: { dryRun?: boolean }) => {
        if (!dryRun) await session.confirm(`This deletes all keys that match ${pattern}`, pattern);
        const { output, terminal } = session;
        session.leaves = "What is deleted by now stays so; the same command goes on.";
        const request = dryRun ? { pattern, validateOnly: true } : { pattern, confirmPattern: pattern };
        using live = !output.json && terminal.stdout.isTTY ? liveLines(terminal.stdout) : undefined;
        for await (const response of client().flushKeys(request, session.stream())) {
          if (output.json) await output.message(FlushKeysResponseSchema, response);
          const { matchedCount, deletedCount, protectedCount, percent, done } = response;
          const kept = protectedCount === 0n ? "" : `; ${count(protectedCount)} are the service's own and stay`;
          const told = dryRun
            ? `It would delete ${counted(matchedCount, "key")}`
            : `Deleted ${counted(deletedCount, "key")}`;
          live?.draw([`${percent.toFixed(1)} %  ${told}`]);
          if (!done) continue;
          live?.clear();
          session.leaves = undefined;
          if (!output.json) output.note(`${told}${kept}.`);
          return;
        }
        throw new Failure("failure", "The service stopped before all keys were seen", "Repeat it to go on.");
      }),
    "lucid cache flush 'tmp:*' --dry-run",
    "lucid cache flush 'tmp:*' --yes",
  );
}

async function showKey(
  session: Session,
  key: string,
  { limit, format }: { readonly limit: number; readonly format: ContentFormat },
): Promise<void> {
  const { output } = session;
  let pageToken = "";
  let shown = 0;
  for (;;) {
    const pageSize = limit === 0 ? 1000 : Math.min(1000, limit - shown);
    const request = { name: { case: "key", value: key }, format, pageSize, pageToken } as const;
    const response = await session.client(CacheService).getKey(request, session.call());
    const rows = rowsOf(response);
    if (output.json) await output.message(GetKeyResponseSchema, response);
    else {
      if (pageToken === "") {
        await output.facts([
          ["key", keyText(response.key)],
          ["type", response.key?.type ?? nothing],
          ["length", count(response.length)],
          ["goes in", response.key?.ttl === undefined ? "never" : duration(response.key.ttl)],
        ]);
        await output.line();
      }
      for (const row of rows) await output.line(row.map(safe).join("  "));
    }
    shown += Math.max(1, rows.length);
    pageToken = response.nextPageToken;
    if (pageToken === "" || (limit > 0 && shown >= limit)) break;
  }
  if (pageToken !== "" && !output.json) output.note(`These are the first ${count(shown)}; --limit 0 shows all.`);
}

/** What is in a page of a value, element by element. */
function rowsOf({ value }: GetKeyResponse): readonly (readonly string[])[] {
  switch (value.case) {
    case "string":
      return [[contentText(value.value.content)]];
    case "list":
      return value.value.elements.map((element, index) => [
        String(value.value.firstIndex + BigInt(index)),
        contentText(element),
      ]);
    case "set":
      return value.value.members.map((member) => [contentText(member)]);
    case "hash":
      return value.value.fields.map((each) => [contentText(each.field), contentText(each.value)]);
    case "sortedSet":
      return value.value.members.map(({ member, score }) => [String(score), contentText(member)]);
    case "stream":
      return value.value.entries.map(({ entryId, fields }) => [
        entryId,
        ...fields.map((each) => `${contentText(each.field)}=${contentText(each.value)}`),
      ]);
    case "dump":
      return [[Buffer.from(value.value).toString("base64")]];
    case undefined:
      return [];
  }
}

function contentText(content: Content | undefined): string {
  const form = content?.form;
  switch (form?.case) {
    case "json":
      return JSON.stringify(toJson(ValueSchema, form.value));
    case "raw":
      return Buffer.from(form.value).toString("latin1");
    case "text":
    case "base64":
      return form.value;
    default:
      return nothing;
  }
}

function keyText(key: CacheKey | undefined): string {
  if (key?.name.case === "key") return key.name.value;
  // Bytes that are no text: each shows as one character, and what would move the cursor as an escape.
  return key?.name.case === "rawKey" ? Buffer.from(key.name.value).toString("latin1") : nothing;
}

const keyColumns: readonly Column<CacheKey>[] = [
  { title: "KEY", of: keyText },
  { title: "TYPE", of: ({ type }) => type },
  { title: "SIZE", of: ({ sizeBytes }) => bytes(sizeBytes), align: "right" },
  { title: "GOES IN", of: ({ ttl }) => (ttl === undefined ? "never" : duration(ttl)), align: "right" },
  { title: "KEPT BY THE SERVICE", of: ({ origin }) => nameOf(KeyOriginSchema, origin) || nothing },
];

const memoryColumns: readonly Column<ServerMemory>[] = [
  { title: "SERVER", of: ({ runId }) => runId.slice(0, 12) },
  { title: "USED", of: ({ usedBytes }) => bytes(usedBytes), align: "right" },
  { title: "PEAK", of: ({ peakBytes }) => bytes(peakBytes), align: "right" },
  { title: "DATA", of: ({ datasetBytes }) => bytes(datasetBytes), align: "right" },
  { title: "LIMIT", of: ({ maxBytes }) => (maxBytes === 0n ? "none" : bytes(maxBytes)), align: "right" },
  { title: "FRAGMENTED", of: ({ fragmentationRatio }) => fragmentationRatio.toFixed(2), align: "right" },
  { title: "KEYS", of: ({ keys }) => count(keys), align: "right" },
  { title: "EVICTION", of: ({ evictionPolicy }) => evictionPolicy || nothing },
];

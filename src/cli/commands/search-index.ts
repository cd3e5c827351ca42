import { fromJson } from "@bufbuild/protobuf";
import type { Command } from "commander";

import {
  type Index,
  IndexHealth,
  IndexHealthSchema,
  type IndexField,
  IndexFieldTypeSchema,
  type IndexOrigin,
  IndexOriginSchema,
  IndexMappingSchema,
  IndexSchema,
  IndexStatisticsSchema,
} from "../../../gen/lucid/search/v1/search_index_pb.ts";
import {
  CreateIndexResponseSchema,
  DeleteIndexResponseSchema,
  EnsuredState,
  type EnsuredIndex,
  EnsuredIndexSchema,
  EnsuredStateSchema,
  GetIndexResponseSchema,
  SearchIndexService,
} from "../../../gen/lucid/search/v1/search_index_service_pb.ts";
import { enumOption } from "../choices.ts";
import { withExamples } from "../examples.ts";
import { readJson } from "../input.ts";
import { showList, withLimit } from "../lists.ts";
import type { Column, Style } from "../output.ts";
import type { Session } from "../session.ts";
import { bytes, count, counted, nameOf, nothing, readNumber, time } from "../units.ts";
import { defineIndexJobs } from "./search-index-jobs.ts";
import { defineStanding } from "./search-sync.ts";

/** `lucid index …`: indices of the search server. Those of MongoDB belong to their collections. */
export function define(index: Command, session: Session): void {
  defineIndices(index, session);
  defineIndexJobs(index, session);
  defineStanding(index, session);
}

function defineIndices(index: Command, session: Session): void {
  const client = () => session.client(SearchIndexService);

  withExamples(
    withLimit(index.command("ls"))
      .description("List search indices")
      .addOption(
        enumOption("--origin <origin>", "only those that the service keeps, or those of operators", IndexOriginSchema),
      )
      .action(async ({ limit, origin }: { limit: number; origin?: IndexOrigin }) => {
        await showList(session, {
          schema: IndexSchema,
          limit,
          columns: indexColumns,
          none: "There are no such indices.",
          async page(page) {
            const request = { ...page, ...(origin !== undefined && { origin }) };
            const { indices, nextPageToken } = await client().listIndices(request, session.call());
            return { items: indices, nextPageToken };
          },
        });
      }),
    "lucid index ls",
    "lucid index ls --origin operator --json",
  );

  withExamples(
    index
      .command("show")
      .description("Show one search index: its fields, its size, what it does")
      .argument("<index>", "name of the index")
      .action(async (name: string) => showIndex(session, name)),
    "lucid index show users",
  );

  withExamples(
    index
      .command("create")
      .description("Create a search index of your own")
      .argument("<index>", "name of the index: letters, digits, _ and -")
      .option("--shards <number>", "number of shards", readNumber(1, 128))
      .option("--replicas <number>", "number of copies of each shard", readNumber(0, 10))
      .option("--mapping <json>", "its fields, as JSON or @FILE: an IndexMapping of the contracts")
      .option("--dry-run", "check what can be checked, and create nothing")
      .action(
        async (name: string, options: { shards?: number; replicas?: number; mapping?: string; dryRun?: boolean }) => {
          const { shards, replicas, mapping, dryRun = false } = options;
          const request = {
            index: name,
            settings: {
              ...(shards !== undefined && { shardCount: shards }),
              ...(replicas !== undefined && { replicaCount: replicas }),
            },
            ...(mapping !== undefined && {
              mapping: await readJson(session, mapping, "--mapping", (json) => fromJson(IndexMappingSchema, json)),
            }),
            validateOnly: dryRun,
          };
          const response = await client().createIndex(request, session.call());
          if (session.output.json) return session.output.message(CreateIndexResponseSchema, response);
          session.output.note(dryRun ? "It could be created; nothing was changed." : `Created ${name}.`);
        },
      ),
    "lucid index create notes",
    `lucid index create notes --mapping '{"fields": {"title": {"type": "INDEX_FIELD_TYPE_TEXT"}}}'`,
  );

  withExamples(
    index
      .command("rm")
      .description("Delete a search index of your own, with all its documents")
      .argument("<index>", "name of the index")
      .option("--dry-run", "only say what would be deleted")
      .action(async (name: string, { dryRun = false }: { dryRun?: boolean }) => {
        const would = await client().deleteIndex({ index: name, validateOnly: true }, session.call());
        const amount = ({ documentCount, storedBytes }: typeof would) =>
          `${counted(documentCount, "document")}, ${bytes(storedBytes)}`;
        if (!dryRun) await session.confirm(`This deletes the index with ${amount(would)}`, name);
        const response = dryRun
          ? would
          : await client().deleteIndex({ index: name, confirmIndex: name }, session.call());
        if (session.output.json) return session.output.message(DeleteIndexResponseSchema, response);
        session.output.note(`${dryRun ? "It would delete" : "Deleted"} ${amount(response)}.`);
      }),
    "lucid index rm notes",
    "lucid index rm notes --dry-run",
  );

  withExamples(
    index
      .command("ensure")
      .description("Make the indices that the service keeps where they are missing, and tell how each stands")
      .argument("[index...]", "names of the indices; all where none is named")
      .action(async (names: readonly string[]) => {
        const { indices } = await client().ensureIndices({ indices: [...names] }, session.call());
        const { output } = session;
        const isWrong = ({ state }: EnsuredIndex) =>
          state === EnsuredState.OUTDATED || state === EnsuredState.CONFLICTING;
        if (indices.some(isWrong)) session.ending = "found";
        if (output.json) for (const each of indices) await output.message(EnsuredIndexSchema, each);
        else await output.table(indices, ensuredColumns);
      }),
    "lucid index ensure",
  );
}

async function showIndex(session: Session, name: string): Promise<void> {
  const { output } = session;
  const client = session.client(SearchIndexService);
  const [response, { statistics }] = await Promise.all([
    client.getIndex({ index: name }, session.call()),
    client.getIndexStatistics({ index: name }, session.call()),
  ]);
  if (output.json) {
    await output.message(GetIndexResponseSchema, response);
    if (statistics !== undefined) await output.message(IndexStatisticsSchema, statistics);
    return;
  }
  const { index } = response;
  if (index === undefined) return;
  const others = index.otherVersions.join(", ");
  await output.facts([
    ["index", index.index],
    ["kept by", nameOf(IndexOriginSchema, index.origin)],
    ["health", nameOf(IndexHealthSchema, index.health), healthStyle(index.health)],
    ["version", `${index.version}${others === "" ? "" : `; also there: ${others}`}`],
    ["documents", count(index.documentCount)],
    ["size", bytes(index.storedBytes)],
    ["created", time(index.createTime)],
    ["shards", `${index.settings?.shardCount ?? 0}, each with ${index.settings?.replicaCount ?? 0} copies`],
    statistics && [
      "deleted",
      `${counted(statistics.deletedDocumentCount, "document")}, taking up space until the server tidies up`,
    ],
    statistics && ["searches", `${count(statistics.searches?.count ?? 0n)} since the server started`],
    statistics && [
      "writes",
      `${count(statistics.writes?.count ?? 0n)}, and ${count(statistics.failedWriteCount)} refused`,
    ],
  ]);
  const fields = fieldsOf(index.mapping?.fields ?? {});
  if (fields.length === 0) return;
  await output.line();
  await output.table(fields, [
    { title: "FIELD", of: ({ path }) => path },
    { title: "TYPE", of: ({ field }) => nameOf(IndexFieldTypeSchema, field.type) || field.serverType },
    { title: "ALSO AS", of: ({ field }) => Object.keys(field.forms).join(", ") || nothing },
  ]);
}

function fieldsOf(
  fields: Readonly<Record<string, IndexField>>,
  prefix = "",
): readonly { readonly path: string; readonly field: IndexField }[] {
  return Object.entries(fields)
    .toSorted(([one], [other]) => (one < other ? -1 : 1))
    .flatMap(([name, field]) => [{ path: prefix + name, field }, ...fieldsOf(field.fields, `${prefix}${name}.`)]);
}

function healthStyle(health: IndexHealth): Style | undefined {
  if (health === IndexHealth.GREEN) return "green";
  return health === IndexHealth.YELLOW ? "yellow" : health === IndexHealth.RED ? "red" : undefined;
}

const indexColumns: readonly Column<Index>[] = [
  { title: "INDEX", of: ({ index }) => index },
  { title: "KEPT BY", of: ({ origin }) => nameOf(IndexOriginSchema, origin) },
  {
    title: "HEALTH",
    of: ({ health }) => nameOf(IndexHealthSchema, health),
    style: ({ health }) => healthStyle(health),
  },
  { title: "VERSION", of: ({ version }) => String(version), align: "right" },
  { title: "DOCUMENTS", of: ({ documentCount }) => count(documentCount), align: "right" },
  { title: "SIZE", of: ({ storedBytes }) => bytes(storedBytes), align: "right" },
  { title: "CREATED", of: ({ createTime }) => time(createTime) },
];

const ensuredColumns: readonly Column<EnsuredIndex>[] = [
  { title: "INDEX", of: ({ index }) => index },
  { title: "STATE", of: ({ state }) => nameOf(EnsuredStateSchema, state) },
  { title: "OCCUPIED BY", of: ({ occupiedBy }) => occupiedBy || nothing },
];

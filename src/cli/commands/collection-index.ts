import { randomUUID } from "node:crypto";

import { type Command, Option } from "commander";

import {
  type CollectionIndex,
  CollectionIndexSchema,
  CollectionIndexStatisticsSchema,
} from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import {
  CreateIndexResponseSchema,
  DatabaseAdminService,
  DropIndexResponseSchema,
  ReindexCollectionResponseSchema,
} from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { showEnsured } from "../ensured.ts";
import { withExamples } from "../examples.ts";
import { keyText, readKey } from "../index-keys.ts";
import { readDocument } from "../input.ts";
import type { Column } from "../output.ts";
import type { Session } from "../session.ts";
import { bytes, count, nothing, readSeconds, time } from "../units.ts";
import { buildCommands } from "./collection-builds.ts";

interface InDatabase {
  readonly database?: string;
}

/** `lucid collection index …`: indexes of MongoDB. Those of the search server are `lucid index`. */
export function defineIndexes(index: Command, session: Session): void {
  const client = () => session.client(DatabaseAdminService);
  const builds = buildCommands(session);

  withExamples(
    ofCollection(index.command("ls"))
      .description("List the indexes of a collection")
      .action(async (collection: string, { database = "" }: InDatabase) => {
        const { output } = session;
        const asked = { database, collection };
        const { indexes } = await client().listIndexes(asked, session.call());
        if (output.json) {
          for (const each of indexes) await output.message(CollectionIndexSchema, each);
          return;
        }
        await output.table(indexes, indexColumns);
      }),
    "lucid collection index ls users",
  );

  withExamples(
    ofCollection(index.command("stats"))
      .description("Show how large each index is, and how often it was used")
      .action(async (collection: string, { database = "" }: InDatabase) => {
        const { output } = session;
        const { indexes } = await client().getIndexStatistics({ database, collection }, session.call());
        if (output.json) {
          for (const each of indexes) await output.message(CollectionIndexStatisticsSchema, each);
          return;
        }
        await output.table(indexes, [
          { title: "INDEX", of: (each) => each.index },
          { title: "SIZE", of: ({ sizeBytes }) => bytes(sizeBytes), align: "right" },
          { title: "USED", of: ({ operationCount }) => count(operationCount), align: "right" },
          { title: "SINCE", of: ({ sinceTime }) => time(sinceTime) },
        ]);
      }),
    "lucid collection index stats users",
  );

  withExamples(
    ofCollection(index.command("create"))
      .description("Build an index, as a job that can be watched")
      .argument("<key...>", "fields in their order: name, name:descending, name:text, name:hashed, name:geo-2dsphere")
      .option("--name <name>", "its name; made of its fields where not said")
      .option("--unique", "no two documents may have the same values")
      .option("--sparse", "leave out documents without the field")
      .addOption(
        new Option("--expire-after <time>", "documents go so long after the time in the field").argParser(readSeconds),
      )
      .option("--partial <json>", "only documents that match this filter, as JSON or @FILE")
      .option("--hidden", "keep it up to date, and do not use it")
      .option("--dry-run", "check what can be checked, and build nothing")
      .option("-w, --watch", "show how far it is until it has ended, and end as it did")
      .action(async (collection: string, keys: readonly string[], options: CreateOptions) => {
        const {
          database = "",
          name = "",
          expireAfter: expireAfterSeconds,
          partial,
          dryRun = false,
          watch = false,
        } = options;
        const definition = {
          index: name,
          keys: keys.map(readKey),
          unique: options.unique === true,
          sparse: options.sparse === true,
          hidden: options.hidden === true,
          ...(expireAfterSeconds !== undefined && { expireAfterSeconds }),
          ...(partial !== undefined && { partialFilter: await readDocument(session, partial, "--partial") }),
        };
        const asked = { database, collection, definition };
        const request = dryRun ? { ...asked, validateOnly: true } : { ...asked, requestId: randomUUID() };
        const response = await client().createIndex(request, session.call());
        if (dryRun) {
          if (session.output.json) await session.output.message(CreateIndexResponseSchema, response);
          else session.output.note("It could be built; nothing was changed.");
          return;
        }
        await builds.begun(response.build, { watch });
      }),
    "lucid collection index create notes created_at:descending --watch",
    "lucid collection index create notes email --unique --dry-run",
  );

  withExamples(
    ofCollection(index.command("update"))
      .description("Hide an index, show it again, or change after what time documents go")
      .argument("<index>", "name of the index")
      .option("--hide", "keep it up to date without using it")
      .option("--no-hide", "use it again")
      .addOption(
        new Option("--expire-after <time>", "documents go so long after the time in the field").argParser(readSeconds),
      )
      .action(
        async (collection: string, name: string, options: InDatabase & { hide?: boolean; expireAfter?: number }) => {
          const { database = "", hide, expireAfter: expireAfterSeconds } = options;
          const request = {
            database,
            collection,
            index: name,
            ...(hide !== undefined && { hidden: hide }),
            ...(expireAfterSeconds !== undefined && { expireAfterSeconds }),
          };
          const { index: changed } = await client().updateIndex(request, session.call());
          if (changed === undefined) return;
          if (session.output.json) await session.output.message(CollectionIndexSchema, changed);
          else session.output.note("Changed.");
        },
      ),
    "lucid collection index update notes created_at_-1 --hide",
  );

  withExamples(
    ofCollection(index.command("rm"))
      .description("Drop an index")
      .argument("<index>", "name of the index")
      .option("--dry-run", "only say whether it could be dropped")
      .action(
        async (
          collection: string,
          name: string,
          { database = "", dryRun = false }: InDatabase & { dryRun?: boolean },
        ) => {
          const asked = { database, collection, index: name };
          const would = await client().dropIndex({ ...asked, validateOnly: true }, session.call());
          if (!dryRun) await session.confirm(`This drops the index of ${collection}`, name);
          const response = dryRun ? would : await client().dropIndex({ ...asked, confirmIndex: name }, session.call());
          if (session.output.json) return session.output.message(DropIndexResponseSchema, response);
          session.output.note(dryRun ? "It could be dropped; nothing was changed." : `Dropped ${name}.`);
        },
      ),
    "lucid collection index rm notes email_1",
  );

  withExamples(
    index
      .command("ensure")
      .description(
        "Build the indexes that the domain needs; the plan with --dry-run says what is there and what conflicts",
      )
      .argument("[collection...]", "names of the collections; all where none is named")
      .option("--dry-run", "only show the plan")
      .option("-w, --watch", "show how far it is until it has ended, and end as it did")
      .action(async (collections: readonly string[], options: { dryRun?: boolean; watch?: boolean }) => {
        const { dryRun = false, watch = false } = options;
        const request = { collections: [...collections], validateOnly: dryRun };
        const response = await client().ensureIndexes(request, session.call());
        await showEnsured(session, response.collections);
        const { ending } = session;
        await builds.begun(response.build, { watch });
        // What conflicts is still so when all else is built.
        if (session.ending === "done") session.ending = ending;
      }),
    "lucid collection index ensure --dry-run",
    "lucid collection index ensure --watch",
  );

  withExamples(
    ofCollection(index.command("rebuild"))
      .description("Build all indexes of a collection anew")
      .option("--dry-run", "only say whether this MongoDB can do it")
      .option("-w, --watch", "show how far it is until it has ended, and end as it did")
      .action(async (collection: string, options: InDatabase & { dryRun?: boolean; watch?: boolean }) => {
        const { database = "", dryRun = false, watch = false } = options;
        // Few servers can, so that is said before anybody is asked for anything.
        const would = await client().reindexCollection({ database, collection, validateOnly: true }, session.call());
        if (dryRun) {
          if (session.output.json) await session.output.message(ReindexCollectionResponseSchema, would);
          else session.output.note("They could be rebuilt; nothing was changed.");
          return;
        }
        await session.confirm(
          "This builds all indexes of the collection anew, and nobody can use it meanwhile",
          collection,
        );
        const request = { database, collection, confirmCollection: collection, requestId: randomUUID() };
        const { build } = await client().reindexCollection(request, session.call());
        await builds.begun(build, { watch });
      }),
    "lucid collection index rebuild notes --watch",
  );
}

interface CreateOptions extends InDatabase {
  readonly name?: string;
  readonly unique?: boolean;
  readonly sparse?: boolean;
  readonly expireAfter?: number;
  readonly partial?: string;
  readonly hidden?: boolean;
  readonly dryRun?: boolean;
  readonly watch?: boolean;
}

function ofCollection(command: Command): Command {
  return command
    .argument("<collection>", "name of the collection")
    .option("--database <name>", "its database; that of the domain where not said");
}

const indexColumns: readonly Column<CollectionIndex>[] = [
  { title: "INDEX", of: ({ definition }) => definition?.index ?? nothing },
  { title: "KEYS", of: ({ definition }) => (definition?.keys ?? []).map(keyText).join(", "), mayBeCut: true },
  {
    title: "KIND",
    of: ({ definition }) =>
      [
        definition?.unique === true ? "unique" : "",
        definition?.sparse === true ? "sparse" : "",
        definition?.partialFilter === undefined ? "" : "partial",
        definition?.expireAfterSeconds === undefined ? "" : `expires after ${definition.expireAfterSeconds} s`,
        definition?.hidden === true ? "hidden" : "",
      ]
        .filter((kind) => kind !== "")
        .join(", ") || nothing,
  },
  { title: "PROTECTED", of: (index) => (index.protected ? "yes" : nothing) },
];

import { type Command, Option } from "commander";

import {
  type Collection,
  CollectionSchema,
  type CollectionType,
  CollectionTypeSchema,
  type ValidationAction,
  ValidationActionSchema,
  type ValidationLevel,
  ValidationLevelSchema,
} from "../../../gen/lucid/admin/v1/collection_pb.ts";
import {
  CountDocumentsResponseSchema,
  CreateCollectionResponseSchema,
  DatabaseAdminService,
  DropCollectionResponseSchema,
  RenameCollectionResponseSchema,
  ValidateCollectionResponseSchema,
} from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { enumOption } from "../choices.ts";
import { showEnsured } from "../ensured.ts";
import { withExamples } from "../examples.ts";
import { Failure } from "../failure.ts";
import { readDocument } from "../input.ts";
import { showList, withLimit } from "../lists.ts";
import type { Column } from "../output.ts";
import type { Session } from "../session.ts";
import { bytes, count, counted, nameOf, nothing, readNumber, readSize } from "../units.ts";
import { defineBuilds } from "./collection-builds.ts";
import { defineIndexes } from "./collection-index.ts";

/** `lucid collection …`. */
export function define(collection: Command, session: Session): void {
  defineCollections(collection, session);
  defineContents(collection, session);
  defineIndexes(collection.command("index").description("Indexes of a collection of MongoDB"), session);
  defineBuilds(collection.command("build").description("Jobs that build indexes of MongoDB"), session);
}

interface InDatabase {
  readonly database?: string;
}

function defineCollections(collection: Command, session: Session): void {
  const client = () => session.client(DatabaseAdminService);

  withExamples(
    withDatabase(withLimit(collection.command("ls")))
      .description("List collections, views and time series with their sizes")
      .option("--contains <text>", "only those whose name holds this text")
      .addOption(enumOption("--type <type>", "only those of this type", CollectionTypeSchema))
      .action(async (options: InDatabase & { limit: number; contains?: string; type?: CollectionType }) => {
        const { limit, database = "", contains: nameContains = "", type } = options;
        await showList(session, {
          schema: CollectionSchema,
          limit,
          columns: collectionColumns,
          none: "There are no such collections.",
          async page(page) {
            const request = { database, nameContains, ...page, ...(type !== undefined && { type }) };
            const { collections, nextPageToken } = await client().listCollections(request, session.call());
            return { items: collections, nextPageToken };
          },
        });
      }),
    "lucid collection ls",
    "lucid collection ls --database other --contains log",
  );

  withExamples(
    named(collection.command("show"))
      .description("Show one collection")
      .action(async (name: string, { database = "" }: InDatabase) => {
        const response = await client().getCollection({ database, collection: name }, session.call());
        await showCollection(session, response.collection);
      }),
    "lucid collection show users",
  );

  withExamples(
    named(collection.command("create"))
      .description("Create a collection")
      .addOption(
        new Option("--capped <size>", "keep no more than this, the oldest go first: 100MiB").argParser(readSize),
      )
      .option("--max-documents <number>", "of a capped one: keep no more documents", readNumber(1, 2_147_483_647))
      .option("--validator <json>", 'what documents must be like, as JSON or @FILE: {"$jsonSchema": …}')
      .addOption(enumOption("--level <level>", "which documents the validator is for", ValidationLevelSchema))
      .addOption(
        enumOption("--action <action>", "what becomes of documents that are not like it", ValidationActionSchema),
      )
      .option("--dry-run", "check what can be checked, and create nothing")
      .action(async (name: string, options: CreateOptions) => {
        const { database = "", capped, maxDocuments, validator, level, action, dryRun = false } = options;
        if (maxDocuments !== undefined && capped === undefined) {
          throw new Failure("usage", "--max-documents: it is for a capped collection; say with --capped how large");
        }
        const request = {
          database,
          collection: name,
          validateOnly: dryRun,
          ...(capped !== undefined && { capped: { maxBytes: capped, maxDocuments: BigInt(maxDocuments ?? 0) } }),
          ...(validator !== undefined && { validator: await readDocument(session, validator, "--validator") }),
          ...(level !== undefined && { validationLevel: level }),
          ...(action !== undefined && { validationAction: action }),
        };
        const response = await client().createCollection(request, session.call());
        if (session.output.json) return session.output.message(CreateCollectionResponseSchema, response);
        session.output.note(dryRun ? "It could be created; nothing was changed." : `Created ${name}.`);
      }),
    "lucid collection create notes",
    "lucid collection create recent --capped 100MiB --max-documents 10000",
  );

  withExamples(
    named(collection.command("rm"))
      .description("Drop a collection with its documents and indexes, or a view")
      .option("--dry-run", "only say what would be dropped")
      .action(async (name: string, { database = "", dryRun = false }: InDatabase & { dryRun?: boolean }) => {
        const asked = { database, collection: name };
        const would = await client().dropCollection({ ...asked, validateOnly: true }, session.call());
        const amount = counted(would.collection?.sizes?.documentCount ?? 0n, "document");
        if (!dryRun) await session.confirm(`This drops ${name} with ${amount}`, name);
        const response = dryRun
          ? would
          : await client().dropCollection({ ...asked, confirmCollection: name }, session.call());
        if (session.output.json) return session.output.message(DropCollectionResponseSchema, response);
        session.output.note(`${dryRun ? "It would drop" : "Dropped"} ${amount}.`);
      }),
    "lucid collection rm notes --dry-run",
    "lucid collection rm notes",
  );

  withExamples(
    named(collection.command("rename"))
      .description("Give a collection another name")
      .argument("<new-name>", "the other name")
      .option("--drop-target", "drop what has that name already")
      .option("--dry-run", "check what can be checked, and change nothing")
      .action(
        async (name: string, newName: string, options: InDatabase & { dropTarget?: boolean; dryRun?: boolean }) => {
          const { database = "", dropTarget = false, dryRun = false } = options;
          const asked = { database, collection: name, newCollection: newName, dropTarget };
          const would = await client().renameCollection({ ...asked, validateOnly: true }, session.call());
          const amount = counted(would.dropped?.sizes?.documentCount ?? 0n, "document");
          const isDropped = would.dropped !== undefined;
          if (isDropped && !dryRun) await session.confirm(`This drops ${newName} with ${amount}`, newName);
          const confirmed = { ...asked, confirmNewCollection: isDropped ? newName : "" };
          const response = dryRun ? would : await client().renameCollection(confirmed, session.call());
          if (session.output.json) return session.output.message(RenameCollectionResponseSchema, response);
          const drops = isDropped ? `, which would drop ${newName} with ${amount}` : "";
          session.output.note(
            dryRun ? `It could be renamed${drops}; nothing was changed.` : `${name} is ${newName} now.`,
          );
        },
      ),
    "lucid collection rename notes old-notes",
  );
}

interface CreateOptions extends InDatabase {
  readonly capped?: bigint;
  readonly maxDocuments?: number;
  readonly validator?: string;
  readonly level?: ValidationLevel;
  readonly action?: ValidationAction;
  readonly dryRun?: boolean;
}

function defineContents(collection: Command, session: Session): void {
  const client = () => session.client(DatabaseAdminService);

  withExamples(
    named(collection.command("count"))
      .description("Count documents")
      .option("--filter <json>", "only those that match this filter of MongoDB, as JSON or @FILE")
      .option("--estimated", "take the server's own count, which is quick and may be off after a crash")
      .action(async (name: string, options: InDatabase & { filter?: string; estimated?: boolean }) => {
        const { database = "", filter, estimated = false } = options;
        const request = {
          database,
          collection: name,
          estimated,
          ...(filter !== undefined && { filter: await readDocument(session, filter, "--filter") }),
        };
        const response = await client().countDocuments(request, session.call());
        if (session.output.json) await session.output.message(CountDocumentsResponseSchema, response);
        else await session.output.line(String(response.count));
      }),
    "lucid collection count users",
    `lucid collection count users --filter '{"status": "ACTIVE"}'`,
  );

  withExamples(
    named(collection.command("validate"))
      .description("Have MongoDB check a collection and its indexes; ends with 4 where something is wrong")
      .option("--full", "check everything, which takes longer")
      .option("--background", "let writers go on meanwhile")
      .action(async (name: string, options: InDatabase & { full?: boolean; background?: boolean }) => {
        const { database = "", full = false, background = false } = options;
        const request = { database, collection: name, full, background };
        const response = await client().validateCollection(request, session.call());
        if (!response.valid) session.ending = "found";
        if (session.output.json) return session.output.message(ValidateCollectionResponseSchema, response);
        await session.output.facts([
          ["valid", response.valid ? "yes" : "no", response.valid ? "green" : "red"],
          ["documents", count(response.documentCount)],
          ["invalid", count(response.invalidDocumentCount)],
          ["not as the validator wants", count(response.noncompliantDocumentCount)],
          ["errors", count(response.errorCount)],
          ["warnings", count(response.warningCount)],
        ]);
        if (response.indexes.length === 0) return;
        await session.output.line();
        await session.output.table(response.indexes, [
          { title: "INDEX", of: ({ index }) => index },
          {
            title: "VALID",
            of: ({ valid }) => (valid ? "yes" : "no"),
            style: ({ valid }) => (valid ? "green" : "red"),
          },
          { title: "KEYS", of: ({ keyCount }) => count(keyCount), align: "right" },
        ]);
      }),
    "lucid collection validate users --full",
  );

  withExamples(
    collection
      .command("ensure")
      .description("Make the collections of the domain where they are missing, and tell how each stands")
      .argument("[collection...]", "names of the collections; all where none is named")
      .option("--dry-run", "only say how they stand")
      .action(async (names: readonly string[], { dryRun = false }: { dryRun?: boolean }) => {
        const request = { collections: [...names], validateOnly: dryRun };
        const { collections } = await client().ensureCollections(request, session.call());
        await showEnsured(session, collections);
      }),
    "lucid collection ensure --dry-run",
    "lucid collection ensure",
  );
}

/** Adds the argument and the option that name a collection. */
function named(command: Command): Command {
  return withDatabase(command).argument("<collection>", "name of the collection");
}

function withDatabase(command: Command): Command {
  return command.option("--database <name>", "its database; that of the domain where not said");
}

async function showCollection({ output }: Session, collection: Collection | undefined): Promise<void> {
  if (collection === undefined) return;
  if (output.json) return output.message(CollectionSchema, collection);
  const { sizes, capped, timeSeries, view } = collection;
  await output.facts([
    ["collection", `${collection.database}.${collection.collection}`],
    ["type", nameOf(CollectionTypeSchema, collection.type)],
    ["protected", collection.protected ? "yes: the service itself needs it" : "no"],
    sizes && ["documents", count(sizes.documentCount)],
    sizes && ["data", `${bytes(sizes.dataBytes)}, ${bytes(sizes.storageBytes)} on disk`],
    sizes && ["indexes", `${sizes.indexCount}, ${bytes(sizes.indexBytes)}`],
    capped && [
      "capped at",
      `${bytes(capped.maxBytes)}${capped.maxDocuments === 0n ? "" : `, ${counted(capped.maxDocuments, "document")}`}`,
    ],
    collection.validator && ["validator", JSON.stringify(collection.validator)],
    collection.validator && ["validates", nameOf(ValidationLevelSchema, collection.validationLevel)],
    collection.validator && ["otherwise", nameOf(ValidationActionSchema, collection.validationAction)],
    collection.collation && ["collation", collection.collation.locale],
    timeSeries && ["time field", timeSeries.timeField],
    view && ["view of", view.sourceCollection],
    view && ["pipeline", JSON.stringify(view.pipeline)],
  ]);
}

const collectionColumns: readonly Column<Collection>[] = [
  { title: "COLLECTION", of: ({ collection }) => collection },
  { title: "TYPE", of: ({ type }) => nameOf(CollectionTypeSchema, type) },
  {
    title: "DOCUMENTS",
    of: ({ sizes }) => (sizes === undefined ? nothing : count(sizes.documentCount)),
    align: "right",
  },
  { title: "DATA", of: ({ sizes }) => (sizes === undefined ? nothing : bytes(sizes.dataBytes)), align: "right" },
  { title: "ON DISK", of: ({ sizes }) => (sizes === undefined ? nothing : bytes(sizes.storageBytes)), align: "right" },
  { title: "INDEXES", of: ({ sizes }) => (sizes === undefined ? nothing : String(sizes.indexCount)), align: "right" },
  { title: "PROTECTED", of: (collection) => (collection.protected ? "yes" : nothing) },
];

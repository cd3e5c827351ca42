import type { Db, Document } from "mongodb";

import { fail } from "../../errors.ts";
import { deadlineOf } from "../../schema/call-options.ts";
import type { IndexSpec } from "./definitions.ts";
import { wasMade } from "./index-builds.ts";
import { idIndex } from "./index-catalog.ts";
import type { NamedCollection } from "./names.ts";
import { told } from "./refusals.ts";
import { tryOut } from "./trials.ts";

/** What says what indexes a collection may have. */
interface Possible {
  readonly at: NamedCollection;
  readonly spec: IndexSpec;
  /** Options of the collection. */
  readonly options: Document;
}

type Context = Parameters<typeof deadlineOf>[0];

/**
 * Has the server say whether an index is possible beside those that are there, on an empty collection of the same kind. Fails as it
 * would on the collection itself, and with `INDEX_ALREADY_EXISTS`, but for what depends on the documents.
 */
export async function requirePossible(
  system: Db,
  { at, spec, options, there }: Possible & { readonly there: readonly IndexSpec[] },
  context: Context,
): Promise<void> {
  const others = there.filter(({ name, clustered }) => name !== idIndex && clustered !== true);
  await onTrial(system, { at, spec, options }, context, async (name, run) => {
    if (others.length > 0) await run({ createIndexes: name, indexes: others.map((other) => asMade(other, options)) });
    if (!wasMade(await run({ createIndexes: name, indexes: [spec] }))) throw isThere(at, spec);
  });
}

/** The same for a change of an index that is there. */
export async function requirePossibleChange(
  system: Db,
  { change, ...possible }: Possible & { readonly change: Document },
  context: Context,
): Promise<void> {
  const { spec, options } = possible;
  await onTrial(system, possible, context, async (name, run) => {
    await run({ createIndexes: name, indexes: [asMade(spec, options)] });
    await run({ collMod: name, index: { name: spec.name, ...change } });
  });
}

/** Runs commands on an empty collection of the same kind. */
async function onTrial(
  system: Db,
  { at, spec, options }: Possible,
  context: Context,
  commands: (name: string, run: (command: Document) => Promise<Document>) => Promise<void>,
): Promise<void> {
  const { timeseries, collation, clusteredIndex, capped, size } = options;
  const same = {
    ...(timeseries !== undefined && { timeseries }),
    ...(collation !== undefined && { collation }),
    ...(clusteredIndex !== undefined && { clusteredIndex }),
    ...(capped === true && { capped: true, size: Math.min(Number(size), 1024 * 1024) }),
  };
  const about = { at, index: spec.name, invalid: "INDEX_DEFINITION_INVALID" } as const;
  const run = (command: Document) => system.command({ ...command, ...deadlineOf(context) });
  await tryOut(system, (name) =>
    told(about, async () => {
      await run({ create: name, ...same });
      await commands(name, run);
    }),
  );
}

/**
 * An index that is listed, as it is made once more. Servers list one that compares by bytes without a collation, and would give it
 * that of its collection.
 */
function asMade(spec: IndexSpec, { collation }: Document): IndexSpec {
  return collation === undefined ? spec : { collation: { locale: "simple" }, ...spec };
}

export function isThere({ database, collection }: NamedCollection, { name: index }: IndexSpec): Error {
  const metadata = { database, collection, index };
  return fail("INDEX_ALREADY_EXISTS", `The collection ${collection} has that index already`, { metadata });
}

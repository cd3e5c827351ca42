import type { Db, Document } from "mongodb";

import { fail } from "../../errors.ts";
import { deadlineOf } from "../../schema/call-options.ts";
import type { IndexSpec } from "./definitions.ts";
import { wasMade } from "./index-builds.ts";
import { idIndex } from "./index-catalog.ts";
import type { NamedCollection } from "./names.ts";
import { told } from "./refusals.ts";
import { tryOut } from "./trials.ts";

/** What says whether a collection may have an index. */
interface Possible {
  readonly at: NamedCollection;
  readonly spec: IndexSpec;
  /** Options of the collection. */
  readonly options: Document;
  /** Its indexes. */
  readonly there: readonly IndexSpec[];
}

/**
 * Has the server say whether an index is possible beside those that are there, on an empty collection of the same kind. Fails as it
 * would on the collection itself, and with `INDEX_ALREADY_EXISTS`, but for what depends on the documents.
 */
export async function requirePossible(
  system: Db,
  { at, spec, options, there }: Possible,
  context: Parameters<typeof deadlineOf>[0],
): Promise<void> {
  const { timeseries, collation, clusteredIndex, capped, size } = options;
  const same = {
    ...(timeseries !== undefined && { timeseries }),
    ...(collation !== undefined && { collation }),
    ...(clusteredIndex !== undefined && { clusteredIndex }),
    ...(capped === true && { capped: true, size: Math.min(Number(size), 1024 * 1024) }),
  };
  const others = there.filter(({ name, clustered }) => name !== idIndex && clustered !== true);
  const about = { at, index: spec.name, invalid: "INDEX_DEFINITION_INVALID" } as const;
  await tryOut(system, (name) =>
    told(about, async () => {
      const run = (command: Document) => system.command({ ...command, ...deadlineOf(context) });
      await run({ create: name, ...same });
      if (others.length > 0) await run({ createIndexes: name, indexes: others });
      if (!wasMade(await run({ createIndexes: name, indexes: [spec] }))) throw isThere(at, spec);
    }),
  );
}

export function isThere({ database, collection }: NamedCollection, { name: index }: IndexSpec): Error {
  const metadata = { database, collection, index };
  return fail("INDEX_ALREADY_EXISTS", `The collection ${collection} has that index already`, { metadata });
}

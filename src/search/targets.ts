import type { SearchedMessage } from "../schema/search-mapping.ts";
import type { SearchStore } from "../stores/search.ts";
import { type AnswerHit, type Call, type NamedIndex, refusal } from "./ask.ts";
import { indexNotFound } from "./index-catalog.ts";
import { fieldsOfMapping, fieldsOfMessage, fieldsTogether, type IndexFields } from "./index-fields.ts";
import { type SearchIndices, versionedName } from "./indices.ts";
import { searchedMessages } from "./messages.ts";
import type { SearchedFields } from "./query.ts";
import { revisionOf } from "./sync/version.ts";

/** An index that is searched. */
export interface Target extends NamedIndex {
  /** What its documents are copies of; undefined of an operator's. */
  readonly message: SearchedMessage | undefined;
  readonly fields: IndexFields;
  /**
   * What the server calls the indices behind the name of an operator's, which need not be as those of versions are, and what it calls
   * these very ones.
   */
  readonly places?: ReadonlyMap<string, string>;
  /** A field that no two documents of it have alike; undefined where there is none. */
  readonly unique: string | undefined;
}

/** Fields of the domain, which do not change while the process runs. */
const domainFields: ReadonlyMap<string, IndexFields> = new Map(
  [...searchedMessages].map(([name, message]) => [name, fieldsOfMessage(message)]),
);

/** What is read of an operator's index. */
const read = ["mappings", "settings.index.uuid", "settings.index.number_of_shards"].map((part) => `*.${part}`);

/** The index of that name. Fails with `SEARCH_INDEX_NOT_FOUND` where there is no index of an operator's, either. */
export async function targetOf(
  search: Pick<SearchStore, "client">,
  indices: Pick<SearchIndices, "alias">,
  name: string,
  call: Call,
): Promise<Target> {
  // What is behind an alias has deleted documents in it, and copies that MongoDB no longer shows.
  if (versionedName.test(name)) throw indexNotFound(name);
  const alias = indices.alias(name);
  const message = searchedMessages.get(name);
  const known = domainFields.get(name);
  if (known !== undefined) return { name, alias, message, fields: known, unique: message?.id };
  try {
    const found = await search.client.indices.get({ index: alias, filter_path: read }, { signal: call.signal });
    const all = Object.values(found).map(({ mappings }) => fieldsOfMapping(mappings?.properties ?? {}));
    if (all.length === 0) throw indexNotFound(name);
    const settings = Object.entries(found).map(([place, its]) => [place, its.settings?.index] as const);
    return {
      name,
      alias,
      message,
      fields: fieldsTogether(all),
      places: new Map(settings.map(([place, its]) => [place, its?.uuid ?? ""])),
      // Each shard counts its writes for itself.
      unique: settings.every(([, its]) => String(its?.number_of_shards) === "1") ? "_seq_no" : undefined,
    };
  } catch (error) {
    throw refusal(error, [{ name, alias }]);
  }
}

/** The revision of a document that a copy was made of; of an operator's document its version. */
export function indexedRevision({ message }: Target, { _version: version = 0 }: AnswerHit): bigint {
  return message === undefined ? BigInt(version) : revisionOf(BigInt(version));
}

/** What several indices have. */
export function searchedFields(targets: readonly Target[]): SearchedFields {
  const each = targets.map(({ fields }) => fields);
  const ofDomain = targets.filter(({ message }) => message !== undefined).length;
  return {
    together: fieldsTogether(each),
    each,
    hasDomain: ofDomain > 0,
    isMixed: ofDomain > 0 && ofDomain < targets.length,
  };
}

/** Which of the indices a hit is in, by the name that the server gives. Behind an alias is an index whose name ends in a version. */
export function targetOfHit(targets: readonly Target[], index: string): Target | undefined {
  if (targets.length === 1) return targets[0];
  const alias = versionedName.exec(index)?.[1] ?? index;
  return targets.find((target) => target.places?.has(index) === true || target.alias === alias);
}

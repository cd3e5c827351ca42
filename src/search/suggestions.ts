import type { MessageInitShape } from "@bufbuild/protobuf";

import type { SuggestionSchema, SuggestRequest } from "../../gen/lucid/search/v1/search_service_pb.ts";
import { fail } from "../errors.ts";
import { badRequest } from "../schema/refusals.ts";
import { suggestible } from "../schema/search-mapping.ts";
import type { SearchStore } from "../stores/search.ts";
import { ask, type Call } from "./ask.ts";
import type { IndexField } from "./index-fields.ts";
import { type Clause, filterClauses, known } from "./query.ts";
import { searchedFields, type Target } from "./targets.ts";

const usualSize = 5;
/** Texts of each field that are looked at where there are conditions, which suggesters do not take. */
const mostLooked = 200;
/** From so many characters on, one of them may be mistyped. */
const forgivingFrom = 4;

/**
 * Completes a text from the suggestions of an index, which hold no deleted document. What begins exactly so comes before what
 * nearly does. With conditions, the documents of the first texts that fit are looked up. Fails with `BAD_REQUEST` for a field without suggestions, `SEARCH_NOTHING_TO_SUGGEST`.
 */
export async function suggest(
  search: Pick<SearchStore, "client">,
  target: Target,
  { text, fields: named, size: wanted, filters }: SuggestRequest,
  call: Call,
): Promise<MessageInitShape<typeof SuggestionSchema>[]> {
  const size = wanted === 0 ? usualSize : wanted;
  const fields = suggesting(target, named);
  const conditions = filterClauses(filters, "filters", searchedFields([target]));
  const isFree = conditions.length === 0;
  const forgiving = text.length >= forgivingFrom ? [false, true] : [false];
  const asked = forgiving.flatMap((isForgiving) => fields.map((field) => ({ field, isForgiving })));
  const clauses = asked.map(({ field, isForgiving }, index) => [
    `s${index}`,
    {
      prefix: suggestible(text),
      completion: {
        field: field.suggestions,
        size: isFree ? size : mostLooked,
        // Of documents that have the same text, one may fulfil the conditions.
        skip_duplicates: isFree,
        ...(isForgiving && { fuzzy: { fuzziness: 1, prefix_length: 1, min_length: forgivingFrom } }),
      },
    },
  ]);
  const body = { size: 0, _source: false, suggest: Object.fromEntries(clauses) as unknown };
  const answer = await ask(search, call, { indices: [target], body });
  const offered = asked.flatMap(({ field }, index) =>
    (answer.suggest?.[`s${index}`]?.[0]?.options ?? []).map((option) => ({ ...option, field: field.path })),
  );
  const ids = isFree ? undefined : await fulfilling(search, target, { offered, conditions }, call);
  const found = new Map<string, MessageInitShape<typeof SuggestionSchema>>();
  for (const { text: suggestion, _id: id, field } of offered) {
    const isWanted = ids === undefined || ids.has(id);
    if (isWanted && found.size < size && !found.has(suggestion)) found.set(suggestion, { text: suggestion, field, id });
  }
  return [...found.values()];
}

/** Ids of the documents that fulfil conditions, among those whose texts are offered. */
async function fulfilling(
  search: Pick<SearchStore, "client">,
  target: Target,
  { offered, conditions }: { readonly offered: readonly { readonly _id: string }[]; readonly conditions: Clause[] },
  call: Call,
): Promise<ReadonlySet<string>> {
  const values = [...new Set(offered.map(({ _id }) => _id))];
  if (values.length === 0) return new Set();
  const query = { bool: { filter: [{ ids: { values } }, ...conditions] } };
  const body = { query, size: values.length, _source: false, track_total_hits: false };
  const { hits } = await ask(search, call, { indices: [target], body });
  return new Set(hits.hits.map(({ _id }) => _id));
}

function suggesting(target: Target, named: readonly string[]): readonly IndexField[] {
  const fields = searchedFields([target]);
  if (named.length > 0) {
    return named.map((path, index) => {
      const at = `fields[${index}]`;
      const field = known(path, at, fields);
      if (field.suggestions === undefined)
        throw badRequest({ field: at, description: "must be a field with suggestions" });
      return field;
    });
  }
  const all = [...fields.together.all()].filter(
    ({ suggestions, isForm }) => suggestions !== undefined && isForm !== true,
  );
  if (all.length > 0) return all;
  throw fail("SEARCH_NOTHING_TO_SUGGEST", `The index ${target.name} has no field with suggestions`, {
    metadata: { index: target.name },
  });
}

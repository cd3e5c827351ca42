import type { MessageInitShape } from "@bufbuild/protobuf";

import type { SuggestionSchema, SuggestRequest } from "../../gen/lucid/search/v1/search_service_pb.ts";
import { fail } from "../errors.ts";
import { badRequest } from "../schema/refusals.ts";
import type { SearchStore } from "../stores/search.ts";
import { ask, type Call } from "./ask.ts";
import type { IndexField } from "./index-fields.ts";
import { known } from "./query.ts";
import { searchedFields, type Target } from "./targets.ts";

const usualSize = 5;
/** From so many characters on, one of them may be mistyped. */
const forgivingFrom = 4;

/**
 * Completes a text from the suggestions of an index, which hold no deleted document. What begins exactly so comes before what
 * nearly does. Fails with `BAD_REQUEST` for a field without suggestions, `SEARCH_NOTHING_TO_SUGGEST`.
 */
export async function suggest(
  search: Pick<SearchStore, "client">,
  target: Target,
  { text, fields: named, size: wanted }: SuggestRequest,
  call: Call,
): Promise<MessageInitShape<typeof SuggestionSchema>[]> {
  const size = wanted === 0 ? usualSize : wanted;
  const fields = suggesting(target, named);
  const forgiving = text.length >= forgivingFrom ? [false, true] : [false];
  const asked = forgiving.flatMap((isForgiving) => fields.map((field) => ({ field, isForgiving })));
  const clauses = asked.map(({ field, isForgiving }, index) => [
    `s${index}`,
    {
      prefix: text,
      completion: {
        field: field.suggestions,
        size,
        skip_duplicates: true,
        ...(isForgiving && { fuzzy: { fuzziness: 1, prefix_length: 1, min_length: forgivingFrom } }),
      },
    },
  ]);
  const body = { size: 0, _source: false, suggest: Object.fromEntries(clauses) as unknown };
  const answer = await ask(search, call, { indices: [target], body });
  const found = new Map<string, MessageInitShape<typeof SuggestionSchema>>();
  for (const [index, { field }] of asked.entries()) {
    for (const { text: suggestion, _id: id } of answer.suggest?.[`s${index}`]?.[0]?.options ?? []) {
      if (found.size < size && !found.has(suggestion))
        found.set(suggestion, { text: suggestion, field: field.path, id });
    }
  }
  return [...found.values()];
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
  const all = [...fields.together.all()].filter(({ suggestions }) => suggestions !== undefined);
  if (all.length > 0) return all;
  throw fail("SEARCH_NOTHING_TO_SUGGEST", `The index ${target.name} has no field with suggestions`, {
    metadata: { index: target.name },
  });
}

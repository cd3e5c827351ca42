import { randomUUID } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";

import type { HighlightSchema } from "../../gen/lucid/search/v1/search_query_pb.ts";
import type { SearchDialect } from "../stores/search.ts";
import type { AnswerHit } from "./ask.ts";
import type { IndexField } from "./index-fields.ts";

type Highlight = MessageInitShape<typeof HighlightSchema>;

/** What asks the server to tell where words are, and how its answer is read. */
export interface Highlighting {
  readonly body: Readonly<Record<string, unknown>>;
  fragments(hit: AnswerHit): Highlight[];
}

/** As many characters of a text as servers look through by themselves before they refuse. */
const mostCharacters = 999_999;

export const noHighlights: Highlighting = { body: {}, fragments: () => [] };

/** Highlights in fields that words are looked for in; `noHighlights` where there are none. */
export function highlighting(
  fields: readonly IndexField[],
  { highlightLimit }: Pick<SearchDialect, "highlightLimit">,
): Highlighting {
  // Fields within lists of messages would need requests of their own.
  const shown = fields.filter(({ nestedIn }) => nestedIn === undefined);
  if (shown.length === 0) return noHighlights;
  // Marks that nobody can have put into a text, which parts are told by.
  const [before, after] = [`<${randomUUID()}>`, `</${randomUUID()}>`];
  const body = {
    highlight: {
      fields: Object.fromEntries(shown.map(({ path }) => [path, {}])),
      pre_tags: [before],
      post_tags: [after],
      number_of_fragments: 3,
      fragment_size: 150,
      [highlightLimit]: mostCharacters,
    },
  };
  return {
    body,
    fragments: ({ highlight = {} }) =>
      Object.entries(highlight).map(([field, texts]) => ({
        field,
        fragments: texts.map((text) => ({ parts: partsOf(text, before, after) })),
      })),
  };
}

function partsOf(text: string, before: string, after: string): { text: string; matched: boolean }[] {
  return text.split(before).flatMap((piece, index) => {
    if (index === 0) return piece === "" ? [] : [{ text: piece, matched: false }];
    const [matched = "", rest = ""] = piece.split(after);
    return [{ text: matched, matched: true }, ...(rest === "" ? [] : [{ text: rest, matched: false }])];
  });
}

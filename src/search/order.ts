import { badRequest } from "../schema/refusals.ts";
import { known, type SearchedFields } from "./query.ts";

/** An order of hits, without what tells apart hits that are equal in it. */
export interface HitOrder {
  readonly sort: readonly Readonly<Record<string, unknown>>[];
}

const mostTerms = 3;

/** What a field is taken for in an index that lacks it. */
const unmapped: Readonly<Record<string, string>> = { text: "keyword" };

/**
 * Reads `order_by`: names of fields with commas between them, each perhaps with ` desc` after it. Fails with `BAD_REQUEST`. What is
 * without a value comes last.
 */
export function hitOrder(text: string, fallback: string, fields: SearchedFields): HitOrder {
  const wanted = text.trim() === "" ? fallback : text;
  if (wanted === "") return { sort: [] };
  const terms = wanted.split(",").map((term) => term.trim().split(/ +/));
  if (terms.length > mostTerms) throw wrong(`must be at most ${mostTerms} fields`);
  const sort = terms.map(([name = "", direction = "asc", ...rest]) => {
    if (name === "" || rest.length > 0 || (direction !== "asc" && direction !== "desc")) {
      throw wrong("must be names of fields with commas between, each perhaps with ` desc`");
    }
    if (name === "score") {
      if (direction === "desc") throw wrong("must have score without ` desc`: the best come first");
      return { _score: { order: "desc" } };
    }
    const { exact, type, nestedIn } = known(name, "order_by", fields);
    if (exact === undefined || type === "free" || type === "object") {
      throw wrong(`cannot be ${JSON.stringify(name)}, which has no order`);
    }
    const nested = nestedIn === undefined ? {} : { nested: { path: nestedIn } };
    return { [exact]: { order: direction, missing: "_last", unmapped_type: unmapped[type] ?? type, ...nested } };
  });
  return { sort };
}

function wrong(description: string) {
  return badRequest({ field: "order_by", description });
}

import type { JsonObject } from "@bufbuild/protobuf";

import type { Highlighting } from "./highlights.ts";
import { type HitParts, structOf } from "./response.ts";
import type { FoundHit } from "./searching.ts";
import { indexedRevision } from "./targets.ts";

/** What every hit says beside its document. */
export function hitOf({ target, hit }: FoundHit, highlights?: Highlighting) {
  return {
    id: hit._id,
    score: hit._score ?? 0,
    highlights: highlights?.fragments(hit) ?? [],
    indexedRevision: indexedRevision(target, hit),
  };
}

/** Its document, with the message that it is of. */
export function documentOf({ target, document }: FoundHit) {
  if (document === undefined || target.message === undefined) return undefined;
  return { schema: target.message.schema, bytes: document };
}

/** A hit of whatever index. */
export function anyHit(found: FoundHit, highlights?: Highlighting): HitParts {
  const { target, hit } = found;
  const source: { case: "fields"; value: JsonObject } | undefined =
    target.message === undefined && hit._source !== undefined
      ? { case: "fields", value: structOf(hit._source) }
      : undefined;
  const rest = { ...hitOf(found, highlights), index: target.name, ...(source && { document: source }) };
  return { rest, document: documentOf(found) };
}

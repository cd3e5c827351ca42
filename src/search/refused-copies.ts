import type { DeadLetters, Refusal } from "./sync/dead-letters.ts";

/** Copies that a new version of an index has refused, while it is not live and nobody misses them. */
export interface RefusedCopies extends Pick<DeadLetters, "record" | "clear" | "among"> {
  /** The documents' `_id`s as text. */
  keys(): string[];
  /** The first ones. */
  examples(): { readonly documentId: string; readonly errorType: string }[];
}

/** So many are remembered; where there are more, the new version is of no use anyway. */
const most = 10_000;
const mostExamples = 100;

export function refusedCopies(): RefusedCopies {
  const refused = new Map<string, Refusal>();
  return {
    async record(_index, refusals) {
      for (const refusal of refusals) if (refused.size < most) refused.set(refusal.key, refusal);
    },
    async clear(_index, keys) {
      for (const key of keys) refused.delete(key);
    },
    async among(_index, keys) {
      return new Map(
        keys.flatMap((key) => {
          const found = refused.get(key);
          return found === undefined ? [] : [[key, found.revision] as const];
        }),
      );
    },
    keys: () => [...refused.keys()],
    examples: () =>
      Array.from(refused.values().take(mostExamples), ({ document_id: documentId, error_type: errorType }) => ({
        documentId,
        errorType,
      })),
  };
}

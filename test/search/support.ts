import { openSearch, type SearchStore } from "../../src/stores/search.ts";
import { uniqueName } from "../support/stores.ts";

/** A search server, and a prefix of names in it that nothing else uses. */
export interface SearchPart extends AsyncDisposable {
  readonly search: SearchStore;
  readonly prefix: string;
}

/** Removes what has the prefix at the end. */
export function searchPart(uri: string): SearchPart {
  const search = openSearch({ uri });
  const prefix = `${uniqueName("search")}-`;
  return {
    search,
    prefix,
    async [Symbol.asyncDispose]() {
      // Elasticsearch deletes nothing by a pattern.
      const found = await search.client.indices.get({ index: `${prefix}*`, expand_wildcards: "all" });
      for (const index of Object.keys(found)) await search.client.indices.delete({ index });
      await search[Symbol.asyncDispose]();
    },
  };
}

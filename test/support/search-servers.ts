import { describe, inject } from "vitest";

import type { Elasticsearch } from "./elasticsearch.ts";

const response = await fetch(inject("elasticsearch"));
if (!response.ok) throw new Error(await response.text());
const { uri, missing } = (await response.json()) as Elasticsearch; // as it is offered

/** Runs tests on the search store of this run, and on Elasticsearch where it can be had. */
export function onEveryServer(tests: (uri: string) => void): void {
  describe("on the search store of this run", () => {
    tests(inject("stores").searchUri);
  });
  const why = missing === undefined ? "" : ` (${missing})`;
  describe.skipIf(missing !== undefined)(`on Elasticsearch${why}`, () => {
    tests(uri);
  });
}

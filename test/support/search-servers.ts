import { describe, inject } from "vitest";

import type { Elasticsearch } from "./elasticsearch.ts";

const response = await fetch(inject("elasticsearch"));
if (!response.ok) throw new Error(await response.text());
const { uri, missing } = (await response.json()) as Elasticsearch; // as it is offered

/** Runs tests on the search store of this run, and on Elasticsearch where it can be had. */
export function onEveryServer(tests: (uri: string) => void): void {
  onEach(tests, { concurrent: false });
}

/** The same for tests that mostly wait: they run beside one another. `expect.poll` does not know which of them asks; `vi.waitFor` need not. */
export function concurrentlyOnEveryServer(tests: (uri: string) => void): void {
  onEach(tests, { concurrent: true });
}

function onEach(tests: (uri: string) => void, options: { readonly concurrent: boolean }): void {
  describe("on the search store of this run", options, () => {
    tests(inject("stores").searchUri);
  });
  const why = missing === undefined ? "" : ` (${missing})`;
  describe.skipIf(missing !== undefined)(`on Elasticsearch${why}`, options, () => {
    tests(uri);
  });
}

import type { WriteStream } from "node:tty";

import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";

import { type Volume, VolumeSchema } from "../../gen/lucid/admin/v1/volume_pb.ts";
import { showList } from "../../src/cli/lists.ts";
import { openSession } from "../../src/cli/session.ts";

/** A session that keeps what is written. */
function kept(json: boolean) {
  const written: string[] = [];
  const stream = { write: (text: string) => written.push(text) > 0 } as unknown as WriteStream; // no more of it is used
  const terminal = { stdin: process.stdin, stdout: stream, stderr: stream, environment: {} };
  const session = openSession(terminal, new AbortController().signal);
  session.configure({ address: "localhost:1", timeout: 0, color: false, json });
  return { session, written };
}

test.for([
  [0, ["one", "two"]],
  [1, ["one"]],
  [2, ["one", "two"]],
] as const)("a list of at most %i goes on behind a page that is empty", async ([limit, expected]) => {
  const { session, written } = kept(true);
  const pages: Record<string, readonly string[]> = { "": [], a: ["one"], b: [], c: ["two"] };
  const tokens = Object.keys(pages);
  await showList(session, {
    ...{ schema: VolumeSchema, limit, columns: [], none: "none" },
    async page({ pageToken }) {
      const items = (pages[pageToken] ?? []).map((name) => create(VolumeSchema, { name }));
      return { items, nextPageToken: tokens[tokens.indexOf(pageToken) + 1] ?? "" };
    },
  });
  expect(written.map((line) => (JSON.parse(line) as { name: string }).name)).toEqual(expected);
});

test("a list shows no more than was asked for, whatever the page has", async () => {
  const { session, written } = kept(false);
  await showList(session, {
    ...{ schema: VolumeSchema, limit: 2, columns: [{ title: "NAME", of: ({ name }: Volume) => name }], none: "none" },
    page: async () => ({
      items: ["one", "two", "three"].map((name) => create(VolumeSchema, { name })),
      nextPageToken: "",
    }),
  });
  expect(written).toEqual(["NAME\n", "one\n", "two\n", "These are the first 2; --limit 0 shows all.\n"]);
});

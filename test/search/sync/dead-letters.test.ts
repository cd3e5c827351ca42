import { MongoClient } from "mongodb";
import { expect, test } from "vitest";

import { deadLetters } from "../../../src/search/sync/dead-letters.ts";
import { storeAddresses, uniqueName } from "../../support/stores.ts";

test("what another process has recorded is forgotten once its document has a copy", async () => {
  await using client = await MongoClient.connect(storeAddresses().mongodbUri);
  const db = client.db(uniqueName("letters"));
  try {
    const open = () => deadLetters(db, { alias: (name) => `test-${name}` });
    const [one, other, third] = [open(), open(), open()];
    const refusal = (key: string) => {
      const about = { source_id: key, document_id: key, revision: 1n };
      return { key, ...about, error_type: "mapper_parsing_exception", cause_type: "", field: "status" };
    };
    // Each of them has seen that there are none.
    for (const each of [one, other, third]) await each.clear("users", ["a"]);
    await other.record("users", [refusal("a"), refusal("b")]);

    // One that takes the index over.
    one.lookAgain("users");
    await one.clear("users", ["a"]);
    expect(await one.count("users")).toBe(1);

    // One that is asked to try a document again.
    await third.find(["test-users/b"]);
    await third.clear("users", ["b"]);
    expect(await third.count("users")).toBe(0);
  } finally {
    await db.dropDatabase();
  }
});

import { once } from "node:events";
import { connect } from "node:net";

import { MongoClient, ObjectId } from "mongodb";
import { expect, test } from "vitest";

import { storeAddresses, uniqueName } from "../support/stores.ts";

test("a list of values finds the same documents however it is compared", async () => {
  await using client = await MongoClient.connect(storeAddresses().mongodbUri);
  const db = client.db(uniqueName("lists"));
  try {
    const things = db.collection("things");
    const [one, two] = [new ObjectId(), new ObjectId()];
    await things.insertMany([
      { name: "text", of: "a" },
      { name: "id", of: one },
      { name: "id as text", of: String(one) },
      { name: "array", of: ["x", "a"] },
      { name: "number", of: 1 },
      { name: "null", of: null },
      { name: "absent" },
    ]);
    const found = async (values: readonly unknown[], options = {}): Promise<string[]> => {
      const cursor = things.find({ of: { $in: values } }, { projection: { name: 1 }, ...options });
      return (await cursor.toArray()).map(({ name }) => String(name)).toSorted();
    };
    expect(await found(["a", "b"])).toEqual(["array", "text"]);
    expect(await found([one, two])).toEqual(["id"]);
    expect(await found([one, "a", String(one)])).toEqual(["array", "id", "id as text", "text"]);
    expect(await found(["A"])).toEqual([]);
    expect(await found(["A"], { collation: { locale: "en", strength: 2 } })).toEqual(["array", "text"]);
    expect(await found([/^a/, 1, null])).toEqual(["absent", "array", "null", "number", "text"]);
    expect(await found([])).toEqual([]);
  } finally {
    await db.dropDatabase();
  }
});

test("more than a thousand connections are served", async () => {
  const { mongodbUri } = storeAddresses();
  const [, port] = /:(\d+)/.exec(mongodbUri) ?? [];
  const sockets = Array.from({ length: 1100 }, () => connect(Number(port), "127.0.0.1"));
  try {
    await Promise.all(sockets.map((socket) => once(socket, "connect")));
    await using client = await MongoClient.connect(mongodbUri);
    expect(await client.db("admin").command({ ping: 1 })).toMatchObject({ ok: 1 });
  } finally {
    for (const socket of sockets) socket.destroy();
  }
});

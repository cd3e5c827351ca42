import fc from "fast-check";
import { BSON, type Document, type UpdateFilter } from "mongodb";
import { expect, test } from "vitest";

import { applyDelta } from "../../../src/backup/mongodb/delta.ts";
import { rig } from "./harness.ts";

const seed = 20_261_124;

interface Numbered {
  readonly _id: number;
}

function bytes(document: Document): Uint8Array {
  return BSON.serialize(document);
}

function described(description: Document): Uint8Array {
  return bytes({ updatedFields: {}, removedFields: [], truncatedArrays: [], disambiguatedPaths: {}, ...description });
}

test.for<[what: string, before: Document, description: Document, after: Document]>([
  ["sets in place", { a: 1, b: 2 }, { updatedFields: { a: 3 } }, { a: 3, b: 2 }],
  ["adds at the end", { a: 1 }, { updatedFields: { c: { x: 1 } } }, { a: 1, c: { x: 1 } }],
  ["sets deep", { a: { b: { c: 1, d: 2 } } }, { updatedFields: { "a.b.c": 9 } }, { a: { b: { c: 9, d: 2 } } }],
  ["makes what leads there", { a: 1 }, { updatedFields: { "x.y.z": 1 } }, { a: 1, x: { y: { z: 1 } } }],
  ["removes", { a: 1, b: { c: 1, d: 1 } }, { removedFields: ["a", "b.c", "none"] }, { b: { d: 1 } }],
  ["sets a place", { a: [1, 2, 3] }, { updatedFields: { "a.1": { x: 1 } } }, { a: [1, { x: 1 }, 3] }],
  ["fills up places", { a: [1] }, { updatedFields: { "a.3": 4 } }, { a: [1, null, null, 4] }],
  ["looks into places", { a: [{ b: [1] }] }, { updatedFields: { "a.0.b.0": 2 } }, { a: [{ b: [2] }] }],
  ["truncates", { a: { b: [1, 2, 3] } }, { truncatedArrays: [{ field: "a.b", newSize: 1 }] }, { a: { b: [1] } }],
  ["empties a place", { a: [1, 2] }, { removedFields: ["a.0"] }, { a: [null, 2] }],
  ["does not lengthen", { a: [1] }, { truncatedArrays: [{ field: "a", newSize: 2 }] }, { a: [1] }],
  ["keeps names that are numbers", { "1": { "0": 1 } }, { updatedFields: { "1.0": 2 } }, { "1": { "0": 2 } }],
  ["passes a later scalar", { a: 5 }, { updatedFields: { "a.b": 1 } }, { a: { b: 1 } }],
  ["passes a later array", { a: [1] }, { updatedFields: { "a.b": 1 } }, { a: { b: 1 } }],
  ["passes a later null", { a: null }, { updatedFields: { "a.0": 1 }, removedFields: ["a.x"] }, { a: { "0": 1 } }],
  [
    "knows dotted names",
    { "a.b": 1, a: { b: 1 } },
    { updatedFields: { "a.b": 2 }, disambiguatedPaths: { "a.b": ["a.b"] } },
    { "a.b": 2, a: { b: 1 } },
  ],
  [
    "tells names from places",
    { a: { "0": [1] } },
    { updatedFields: { "a.0.0": 2 }, disambiguatedPaths: { "a.0.0": ["a", "0", 0] } },
    { a: { "0": [2] } },
  ],
  ["knows dollars and nothing", { $a: 1, "": 2 }, { updatedFields: { $a: 3, "": 4 } }, { $a: 3, "": 4 }],
])("a change %s", ([, before, description, after]) => {
  expect(BSON.deserialize(applyDelta(bytes(before), described(description)))).toEqual(after);
});

test("what a change does not name stays as it is, to the last bit", () => {
  // Not what a driver would write: a name that is no UTF-8, twice the same name, an array with other names than places.
  const odd = Buffer.from(
    "2b0000000161ff00000000000000f87f0261000200000062000261000200000063000461000c000000103700010000000000",
    "hex",
  );
  odd.writeInt32LE(odd.length, 0);
  const changed = applyDelta(odd, described({ updatedFields: { z: 1 } }));
  expect(Buffer.from(changed.subarray(4, odd.length - 1))).toEqual(odd.subarray(4, -1));
});

/** Values without an order of names that would matter for `Document`. */
const value = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc.integer({ min: -5, max: 5 }),
    fc.constantFrom("", "text", null, true),
    fc.array(tie("value"), { maxLength: 4 }),
    fc.dictionary(fc.constantFrom("a", "b", "c", "0"), tie("value"), { maxKeys: 3, noNullPrototype: true }),
  ),
})).value;

const path = fc.constantFrom("a", "b", "c", "d", "a.b", "a.c", "b.a.c", "c.0", "c.1", "c.2", "c.1.a", "d.0.b", "d.a");

/** Updates as users write them. Some are refused, depending on what is there. */
const update = fc.oneof(
  fc.tuple(path, value).map(([at, to]) => ({ $set: { [at]: to } })),
  fc.tuple(path, path, value).map(([at, gone, to]) => ({ $set: { [at]: to }, $unset: { [gone]: 1 } })),
  path.map((at) => ({ $unset: { [at]: 1 } })),
  fc.tuple(path, value).map(([at, to]) => ({ $push: { [at]: to } })),
  fc.tuple(path, fc.array(value, { maxLength: 3 })).map(([at, to]) => ({ $push: { [at]: { $each: to, $slice: -2 } } })),
  fc
    .tuple(path, fc.array(value, { maxLength: 3 }))
    .map(([at, to]) => ({ $push: { [at]: { $each: to, $position: 0 } } })),
  fc.tuple(path, fc.constantFrom(1, -1)).map(([at, end]) => ({ $pop: { [at]: end } })),
  fc.tuple(path, value).map(([at, out]) => ({ $pull: { [at]: out } })),
  fc.tuple(path, fc.integer({ min: -3, max: 3 })).map(([at, by]) => ({ $inc: { [at]: by } })),
  fc.tuple(path, path).map(([at, to]) => ({ $rename: { [at]: to } })),
  fc.tuple(path, value).map(([at, to]) => [{ $set: { [at]: { $literal: to } } }, { $unset: "b" }]),
  fc.constant([{ $set: { c: { $concatArrays: [{ $cond: [{ $isArray: "$c" }, "$c", []] }, [1, 2]] } } }]),
);

/** The document with the fields of every document in it sorted. */
function sorted(given: unknown): unknown {
  if (Array.isArray(given)) return given.map(sorted);
  if (typeof given !== "object" || given === null) return given;
  return Object.fromEntries(
    Object.entries(given)
      .toSorted(([one], [other]) => (one < other ? -1 : 1))
      .map(([name, inner]) => [name, sorted(inner)]),
  );
}

test("changes do to a document what the server did, and doing them again changes nothing", async () => {
  await using here = await rig();
  const db = here.database();
  const documents = db.collection<Numbered>("documents");
  const stories = fc.sample(
    fc.tuple(
      fc.dictionary(fc.constantFrom("a", "b", "c", "d"), value, { noNullPrototype: true }),
      fc.array(update, { maxLength: 8 }),
    ),
    { seed, numRuns: 60 },
  );
  const stream = db.watch<Numbered>([], { showExpandedEvents: true });
  await stream.tryNext();
  const states = new Map<number, Uint8Array[]>();
  for (const [number, [first, updates]] of stories.entries()) {
    await documents.insertOne({ ...first, _id: number });
    const seen: Uint8Array[] = [];
    for (const one of [undefined, ...updates]) {
      try {
        if (one !== undefined) await documents.updateOne({ _id: number }, one as UpdateFilter<Numbered>);
      } catch {
        continue; // Refused: no change.
      }
      // With `raw`, documents are their bytes.
      const state = (await documents.findOne({ _id: number }, { raw: true })) as unknown as Uint8Array;
      const last = seen.at(-1);
      if (last === undefined || Buffer.compare(last, state) !== 0) seen.push(state);
    }
    states.set(number, seen);
  }
  await documents.insertOne({ _id: -1 });
  const changes = new Map<number, Uint8Array[]>();
  for await (const event of stream) {
    if (event.operationType === "insert" && event.documentKey._id === -1) break;
    if (event.operationType !== "update") continue;
    const number = event.documentKey._id;
    changes.set(number, [...(changes.get(number) ?? []), bytes(event.updateDescription)]);
  }
  await stream.close();

  let compared = 0;
  for (const [number, seen] of states) {
    const deltas = changes.get(number) ?? [];
    const end = seen.at(-1);
    // A server may tell of an update that changed nothing; then the two cannot be put side by side.
    if (end === undefined || deltas.length !== seen.length - 1) continue;
    for (const [from, state] of seen.entries()) {
      const exact = deltas.slice(from).reduce<Uint8Array>(applyDelta, state);
      expect(Buffer.from(exact).toString("hex")).toBe(Buffer.from(end).toString("hex"));
      const again = deltas.reduce<Uint8Array>(applyDelta, state);
      expect(sorted(BSON.deserialize(again))).toEqual(sorted(BSON.deserialize(end)));
      compared++;
    }
  }
  expect(compared).toBeGreaterThan(100);
});

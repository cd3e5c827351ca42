import { create } from "@bufbuild/protobuf";
import { array, assert, constantFrom, property, string } from "fast-check";
import { expect, test } from "vitest";

import { RenameSchema, SelectionSchema } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import { type Unit, UnitSchema } from "../../gen/lucid/backup/v1/manifest_pb.ts";
import { absentViolations, patternFits, selectedUnits, targetName } from "../../src/backup/selection.ts";

function collection(name: string): Unit {
  const [database = "", ...rest] = name.split(".");
  const value = { database, collection: rest.join("."), kind: "collection" };
  return create(UnitSchema, { store: Store.MONGODB, name, description: { case: "mongodbCollection", value } });
}

function index(name: string, aliases: readonly string[] = []): Unit {
  const definitionJson = JSON.stringify({ aliases: Object.fromEntries(aliases.map((alias) => [alias, {}])) });
  return create(UnitSchema, {
    store: Store.SEARCH,
    name,
    description: { case: "searchIndex", value: { index: name, definitionJson } },
  });
}

const changes = create(UnitSchema, {
  store: Store.MONGODB,
  name: "changes",
  description: { case: "mongodbChanges", value: {} },
});
const keys = create(UnitSchema, { store: Store.REDIS, name: "db0", description: { case: "redisKeys", value: {} } });
const units = [
  collection("a.one"),
  collection("a.two.three"),
  collection("ab.one"),
  changes,
  keys,
  index("logs-1", ["logs"]),
  index("users"),
];

test.for([
  [["a"], ["a.one", "a.two.three", "changes"]],
  [["a.two.three"], ["a.two.three", "changes"]],
  [["a.two"], []],
  [[], ["a.one", "a.two.three", "ab.one", "changes"]],
] as const)("namespaces select whole databases or single collections: %j", ([mongodbNamespaces, names]) => {
  const selection = create(SelectionSchema, {
    stores: [Store.MONGODB],
    mongodbNamespaces: [...mongodbNamespaces],
  });
  expect(selectedUnits(units, Store.MONGODB, selection).map(({ name }) => name)).toEqual(names);
});

test.for([
  [["logs"], ["logs-1"]],
  [["*s"], ["logs-1", "users"]],
  [
    ["logs-*", "users"],
    ["logs-1", "users"],
  ],
  [["nothing"], []],
] as const)("indices are selected by name, alias and pattern: %j", ([searchIndices, names]) => {
  const selection = create(SelectionSchema, { stores: [Store.SEARCH], searchIndices: [...searchIndices] });
  expect(selectedUnits(units, Store.SEARCH, selection).map(({ name }) => name)).toEqual(names);
});

test("a store that is not selected gives nothing", () => {
  expect(selectedUnits(units, Store.REDIS, create(SelectionSchema, { stores: [Store.MONGODB] }))).toEqual([]);
});

test("what a backup does not hold is named", () => {
  const asked = create(SelectionSchema, {
    stores: [Store.MONGODB],
    mongodbNamespaces: ["a", "b"],
    searchIndices: ["users", "x*"],
  });
  expect(absentViolations(units, asked).map(({ field }) => field)).toEqual([
    "selection.mongodb_namespaces[1]",
    "selection.search_indices[1]",
  ]);
});

test.for([
  ["a.one", "a", "z", "z.one"],
  ["a.one", "a.one", "z.y.x", "z.y.x"],
  ["ab.one", "a", "z", "ab.one"],
  ["a.one.two", "a.one", "z.y", "a.one.two"],
])("a rename fits whole databases and collections only: %j", ([name = "", from = "", to = "", expected]) => {
  const rename = create(RenameSchema, { store: Store.MONGODB, from, to });
  expect(targetName(collection(name), [rename])).toBe(expected);
});

test("the first rename that fits is used, and those of other stores are not", () => {
  const rename = (store: Store, from: string, to: string) => create(RenameSchema, { store, from, to });
  const renames = [
    rename(Store.MONGODB, "logs-1", "x"),
    rename(Store.SEARCH, "logs-*", "old-*"),
    rename(Store.SEARCH, "*", "new-*"),
  ];
  expect(targetName(index("logs-1"), renames)).toBe("old-1");
  expect(targetName(index("users"), renames)).toBe("new-users");
});

test("a pattern fits exactly what a regular expression of it fits", () => {
  const text = string({ unit: constantFrom("a", "b", "."), maxLength: 8 });
  const pattern = array(constantFrom("a", "b", ".", "*"), { maxLength: 8 }).map((parts) => parts.join(""));
  assert(
    property(pattern, text, (asked, name) => {
      const same = new RegExp(`^${asked.replaceAll(".", "\\.").replaceAll("*", ".*")}$`).test(name);
      expect(patternFits(asked, name)).toBe(same);
    }),
    { seed: 20_261_124, numRuns: 2000 },
  );
});

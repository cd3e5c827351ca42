import { cpSync, mkdirSync, readdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { create, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "vitest";

import { ConflictPolicy, SelectionSchema } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import { VolumeType } from "../../../gen/lucid/admin/v1/volume_pb.ts";
import {
  StreamSchema,
  UnitSchema,
  VolumeEntryKind,
  VolumeRecordSchema,
} from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { volumeTarget } from "../../../src/backup/volumes/target.ts";
import { reasonOf } from "../../../src/errors.ts";
import { openVolumes } from "../../../src/stores/volumes/volumes.ts";
import { temporaryFolder } from "../../stores/volumes/support.ts";
import { startChild } from "../../support/child.ts";

const { FILE, DIRECTORY, SYMLINK, UNSPECIFIED } = VolumeEntryKind;
interface Hostile {
  readonly kind: VolumeEntryKind;
  readonly path?: string;
  readonly target?: string;
  readonly content?: string;
  readonly mode?: number;
  readonly more?: boolean;
}

/** Restores records that nobody has checked into the volume `v` below a root. */
async function restoreRecords(
  root: string,
  records: readonly Hostile[],
  conflictPolicy: ConflictPolicy,
  meanwhile?: (reading: number) => void,
) {
  const volumes = openVolumes({ dir: root });
  const encoded = records.map(({ path = "", target = "", content = "", ...rest }) => {
    const bytes = { path: Buffer.from(path), target: Buffer.from(target), content: Buffer.from(content) };
    return toBinary(VolumeRecordSchema, create(VolumeRecordSchema, { mode: 0o644, ...rest, ...bytes }));
  });
  const stream = create(StreamSchema, { recordCount: BigInt(records.length) });
  const description = {
    case: "volumeFiles",
    value: { volume: { type: VolumeType.LOGS, declaredBytes: 1000n } },
  } as const;
  const unit = create(UnitSchema, { store: Store.VOLUMES, name: "v", streams: [stream], description });
  let readings = 0;
  const source = {
    async *records() {
      yield encoded;
      meanwhile?.(++readings);
    },
  };
  const work = { meter: { plan() {}, add() {}, phase() {} }, signal: new AbortController().signal, parallelism: 4 };
  const plan = { units: [unit], selection: create(SelectionSchema), renames: [], conflictPolicy };
  await using run = await volumeTarget({ volumes }).prepare(plan, source, work);
  try {
    await run.restore();
    await run.compare();
    return undefined;
  } catch (error) {
    return reasonOf(error)?.reason ?? String(error);
  }
}

const file = (path: string, content = "evil"): Hostile => ({ kind: FILE, path, content });

test.for<[what: string, records: Hostile[]]>([
  ["a parent", [file("../outside/evil")]],
  ["a parent within", [file("a/../../outside/evil")]],
  ["an absolute path", [file("/evil")]],
  ["nothing", [file("")]],
  ["two slashes", [file("a//evil")]],
  ["a dot", [file("./evil")]],
  ["a slash at the end", [file("evil/")]],
  ["a zero byte", [file("a\0evil")]],
  ["a long name", [file("x".repeat(256))]],
  ["a deep path", [file(`${"d/".repeat(1000)}evil`)]],
  ["the service's own description", [file(".lucid/volume.99.json", "{}")]],
  ["the service's own folder as a symlink", [{ kind: SYMLINK, path: ".lucid", target: "/tmp" }]],
  ["the service's own folder as a directory", [{ kind: DIRECTORY, path: ".lucid", mode: 0 }]],
  ["a symlink to nowhere", [{ kind: SYMLINK, path: "a", target: "" }]],
  ["a symlink with a zero byte", [{ kind: SYMLINK, path: "a", target: "/etc\0" }]],
  ["a part without a beginning", [{ kind: UNSPECIFIED, content: "evil" }]],
  ["a file without an end", [{ ...file("a"), more: true }]],
  ["a file that another follows before its end", [{ ...file("a"), more: true }, file("b")]],
  ["a directory of a parent", [{ kind: DIRECTORY, path: "..", mode: 0o777 }]],
])("records with %s write nothing outside", async ([, records]) => {
  for (const policy of [ConflictPolicy.FAIL, ConflictPolicy.OVERWRITE, ConflictPolicy.SKIP, ConflictPolicy.DROP]) {
    await using folder = await temporaryFolder();
    const root = join(folder.path, "root");
    mkdirSync(root);
    mkdirSync(join(folder.path, "outside"));
    const reason = await restoreRecords(root, records, policy);
    expect(["VOLUME_PATH_REFUSED", "RESTORE_REFUSED"]).toContain(reason);
    expect(readdirSync(join(folder.path, "outside"))).toEqual([]);
    expect(readdirSync(folder.path).toSorted((one, other) => (one < other ? -1 : 1))).toEqual(["outside", "root"]);
    expect(readdirSync(root)).toEqual(["v"]);
    expect(readdirSync(join(root, "v", ".lucid"))).toEqual(["volume.1.json"]);
  }
});

test("records that first make a symlink and then write through it stay inside", async () => {
  for (const policy of [ConflictPolicy.FAIL, ConflictPolicy.OVERWRITE, ConflictPolicy.SKIP, ConflictPolicy.DROP]) {
    await using folder = await temporaryFolder();
    const [root, outside] = [join(folder.path, "root"), join(folder.path, "outside")];
    mkdirSync(root);
    mkdirSync(outside);
    writeFileSync(join(outside, "kept"), "kept");
    await restoreRecords(
      root,
      [
        { kind: SYMLINK, path: "a", target: outside },
        file("a/evil"),
        { kind: SYMLINK, path: "b", target: join(outside, "kept") },
        file("b"),
        { kind: DIRECTORY, path: "a", mode: 0o777 },
      ],
      policy,
    );
    expect(readdirSync(outside)).toEqual(["kept"]);
    expect(readFileSync(join(outside, "kept"), "utf8")).toBe("kept");
  }
});

test("whoever swaps directories while a restore runs leads it nowhere", async () => {
  await using folder = await temporaryFolder();
  const [root, outside] = [join(folder.path, "root"), join(folder.path, "outside")];
  mkdirSync(root);
  mkdirSync(outside);
  writeFileSync(join(outside, "kept"), "kept");
  await restoreRecords(root, [file("d/first")], ConflictPolicy.FAIL);
  await using _ = await startChild(join(import.meta.dirname, "..", "..", "stores", "volumes", "swapper.ts"), [
    join(root, "v", "d"),
    outside,
  ]);
  const records = [file("d/kept"), file("d/new"), file("d/e/new"), { kind: DIRECTORY, path: "d", mode: 0o700 }];
  for (let round = 0; round < 40; round++) {
    for (const policy of [ConflictPolicy.OVERWRITE, ConflictPolicy.SKIP]) await restoreRecords(root, records, policy);
  }
  expect(readdirSync(outside)).toEqual(["kept"]);
  expect(readFileSync(join(outside, "kept"), "utf8")).toBe("kept");
});

test.for([
  ["written", 1],
  ["compared", 2],
])("a volume that is replaced while it is %s is told, and what took its name is left alone", async ([, when]) => {
  for (const isReplaced of [true, false]) {
    await using folder = await temporaryFolder();
    const reason = await restoreRecords(folder.path, [file("a"), file("b")], ConflictPolicy.OVERWRITE, (reading) => {
      if (reading !== when) return;
      renameSync(join(folder.path, "v"), join(folder.path, "moved"));
      if (isReplaced) cpSync(join(folder.path, "moved"), join(folder.path, "v"), { recursive: true });
    });
    expect(reason).toBe(isReplaced ? "VOLUME_CHANGED" : "VOLUME_NOT_FOUND");
    expect(readdirSync(join(folder.path, "moved")).toSorted()).toEqual([".lucid", "a", "b"]);
  }
});

test("a folder of the root that is no volume is not written to", async () => {
  await using folder = await temporaryFolder();
  const [root, outside] = [join(folder.path, "root"), join(folder.path, "outside")];
  mkdirSync(root);
  mkdirSync(outside);
  symlinkSync(outside, join(root, "v"));
  expect(await restoreRecords(root, [file("evil")], ConflictPolicy.OVERWRITE)).toBeDefined();
  expect(readdirSync(outside)).toEqual([]);
});

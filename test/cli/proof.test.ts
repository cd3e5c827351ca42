import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { type DescMessage, fromJson, type JsonObject, type MessageShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";

import {
  AuditLogService,
  GetAuditInclusionProofResponseSchema,
} from "../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import {
  GetConsistencyProofResponseSchema,
  GetInclusionMultiProofResponseSchema,
  GetInclusionProofResponseSchema,
} from "../../gen/lucid/repository/v1/manifest_service_pb.ts";
import { UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { faultOfChunk, faultOfChunks, faultOfGrowth, faultOfRecord } from "../../src/cli/proof-checks.ts";
import { recordHash } from "../../src/proofs/checks.ts";
import { hex, merkleRoot } from "../../src/proofs/merkle.ts";
import { ownFolder } from "../local/support.ts";
import {
  hashOf,
  manifestsApp,
  type ManifestsApp,
  newManifest,
  newSession,
  upTo,
} from "../repository/manifest-support.ts";
import { newUser } from "../repository/support.ts";
import { lucid, lucidInside, type Lucid, servedBy } from "./support.ts";

const folder = ownFolder();
let there: ManifestsApp;
let command: Lucid;
let audit: Client<typeof AuditLogService>;
beforeAll(async () => {
  there = await manifestsApp();
  command = lucidInside(there.app.grpcAddress);
  audit = there.app.client(AuditLogService);
});
afterAll(async () => {
  await there?.[Symbol.asyncDispose]();
  folder[Symbol.dispose]();
});

/** A manifest of so many chunks, with the root that they make. */
async function manifestOf(chunkCount: number) {
  const sessionId = await newSession(there.db, upTo(chunkCount));
  const rootOf = async (size: number) =>
    hex((await merkleRoot(upTo(size).map((index) => Buffer.from(hashOf(index), "hex")))).root);
  const root = await rootOf(chunkCount);
  const totalSize = BigInt(upTo(chunkCount).reduce((sum, index) => sum + index + 1, 0));
  const init = { sessionId, merkleRoot: root, chunkCount: BigInt(chunkCount), totalSize };
  const { manifestId } = await newManifest(there.manifests, init);
  return { manifestId, root, rootOf };
}

/** Another hexadecimal digit in the place of the first. */
const forge = (hash: string) => `${hash.startsWith("0") ? "1" : "0"}${hash.slice(1)}`;

/** Calls `lucid proof check` with what became of a proof. */
async function checkOf(proof: object, ...args: readonly string[]) {
  const file = join(folder.path, "proof.json");
  writeFileSync(file, JSON.stringify(proof));
  return await command.run("proof", "check", `@${file}`, ...args);
}

const headOf = (treeSize: bigint, rootHash: string) => ({ treeSize, rootHash });

/** What a response becomes where one thing in it is changed. */
function forgedOf<D extends DescMessage>(schema: D, response: JsonObject): MessageShape<D>[] {
  return [...changes(response, (changed) => changed)].map((one) => fromJson(schema, one as JsonObject));
}

/** Every way to change one text or number in a JSON value. */
function* changes(value: unknown, put: (changed: unknown) => unknown): Generator {
  if (typeof value === "string") {
    if (/^[0-9a-f]{64}$/.test(value)) yield put(forge(value));
    else if (/^\d+$/.test(value)) yield put(String(Number(value) + 1));
  } else if (Array.isArray(value)) {
    if (value.length > 0) yield put(value.slice(1));
    yield put([...(value as unknown[]), "0".repeat(64)]);
    for (const [index, item] of value.entries()) yield* changes(item, (changed) => put(value.with(index, changed)));
  } else if (typeof value === "object" && value !== null) {
    for (const [name, item] of Object.entries(value)) {
      yield* changes(item, (changed) => put({ ...value, [name]: changed }));
    }
  }
}

test("a chunk of a manifest is proved here, and a proof that was changed anywhere is refused", async () => {
  const { manifestId, root } = await manifestOf(5);
  const asked = ["proof", "chunk", manifestId, "3"];
  const held = await command.run(...asked, "--head", `5:${root}`, "--hash", hashOf(3));
  expect(held).toMatchObject({ code: 0, stderr: "" });
  expect(held.stdout).toContain("The proof holds: the tree of this size and root has this chunk in this place.");
  expect((await command.run(...asked)).stderr).toContain("give one that you kept with --head");
  for (const args of [
    ["--head", `5:${forge(root)}`],
    ["--head", `6:${root}`],
    ["--hash", hashOf(4)],
  ]) {
    const { code, stderr } = await command.run(...asked, ...args);
    expect([code, stderr]).toEqual([5, expect.stringContaining("lucid: The proof does not hold:")]);
  }
  expect(await command.run("proof", "chunk", manifestId, "5")).toMatchObject({ code: 3 });

  const [proof = {}] = (await command.json(...asked)).objects;
  expect(await checkOf(proof, "--head", `5:${root}`, "--hash", hashOf(3))).toMatchObject({ code: 0 });
  const forged = forgedOf(GetInclusionProofResponseSchema, proof);
  expect(forged.length).toBeGreaterThan(7);
  for (const one of forged) expect(faultOfChunk(one, { head: headOf(5n, root) }), JSON.stringify(proof)).toBeDefined();
  expect(await checkOf({ ...proof, chunkHash: hashOf(4) })).toMatchObject({ code: 5 });
});

test("several chunks of a manifest are proved at once", async () => {
  const { manifestId, root } = await manifestOf(9);
  const asked = ["proof", "chunks", manifestId, "7", "2", "3"];
  const head = ["--head", `9:${root}`];
  const held = await command.run(...asked, ...head);
  expect(held).toMatchObject({ code: 0, stderr: "" });
  expect(held.stdout).toContain("The proof holds: the tree of this size and root has these chunks, each in its place.");
  expect(await command.run(...asked, "--head", `8:${root}`)).toMatchObject({ code: 5 });
  expect(await command.run(...asked, "x")).toMatchObject({ code: 2 });

  const [proof = {}] = (await command.json(...asked)).objects;
  expect(await checkOf(proof, ...head)).toMatchObject({ code: 0 });
  for (const one of forgedOf(GetInclusionMultiProofResponseSchema, proof)) {
    expect(faultOfChunks(one, { head: headOf(9n, root) })).toBeDefined();
  }
  expect(await checkOf({ ...proof, merkleRoot: forge(root) })).toMatchObject({ code: 5 });
});

test("a manifest is proved to have grown from a smaller tree", async () => {
  const { manifestId, root, rootOf } = await manifestOf(7);
  const trusted = ["--first", `3:${await rootOf(3)}`, "--head", `7:${root}`];
  const grow = (first: string, ...args: readonly string[]) =>
    command.run("proof", "growth", manifestId, first, ...args);
  const held = await grow(`3:${await rootOf(3)}`, "--head", `7:${root}`);
  expect(held).toMatchObject({ code: 0, stderr: "" });
  expect(held.stdout).toContain("the second tree starts with all chunks of the first");
  expect((await grow("3")).stderr).toContain("give one that you kept");
  expect(await grow("3", "--head", `6:${root}`)).toMatchObject({ code: 5 });
  expect(await grow(`3:${await rootOf(2)}`)).toMatchObject({ code: 5 });
  expect(await grow("3:abc")).toMatchObject({ code: 2 });

  const [proof = {}] = (await command.json("proof", "growth", manifestId, "3")).objects;
  expect(await checkOf(proof, ...trusted)).toMatchObject({ code: 0 });
  const [first, head] = [headOf(3n, await rootOf(3)), headOf(7n, root)];
  for (const one of forgedOf(GetConsistencyProofResponseSchema, proof)) {
    expect(faultOfGrowth(one, { first, head })).toBeDefined();
  }
  expect(await checkOf({ ...proof, firstRoot: root })).toMatchObject({ code: 5 });
});

test("the audit log is proved to have only grown since the head that a file remembers", async () => {
  const heads = join(folder.path, "heads");
  const prove = () => command.run("proof", "log", "--heads", heads);
  await newUser(there.app.client(UserService));
  expect(await prove()).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/^Head: \d+:[0-9a-f]{64}\n$/) as unknown,
  });
  const { userId } = await newUser(there.app.client(UserService));
  const grown = await prove();
  expect(grown).toMatchObject({ code: 0, stderr: "" });
  expect(grown.stdout).toContain("the log has only grown from the first head to the second");
  const lines = readFileSync(heads, "utf8").trimEnd().split("\n");
  expect(lines).toHaveLength(2);
  // Nothing new is remembered where nothing was added.
  expect(await prove()).toMatchObject({ code: 0 });
  expect(readFileSync(heads, "utf8").trimEnd().split("\n")).toEqual(lines);

  const { records } = await audit.listAuditRecords({ filter: { resourceType: "User", resourceName: userId } });
  const auditId = records[0]?.auditId ?? "";
  const record = await command.run("proof", "record", auditId, "--heads", heads);
  expect(record).toMatchObject({ code: 0, stderr: "" });
  const [proof = {}] = (await command.json("proof", "record", auditId)).objects;
  for (const one of forgedOf(GetAuditInclusionProofResponseSchema, proof)) {
    expect(faultOfRecord(one, {})).toBeDefined();
  }
  const told = { ...(proof["record"] as object), rpc: "lucid.repository.v1.UserService/DeleteUser" };
  expect(await checkOf({ ...proof, record: told })).toMatchObject({ code: 5 });

  // A log that was written anew, or cut off, is another than the one that was remembered.
  const [size = "", root = ""] = (lines[1] ?? "").split(":");
  for (const [line, says] of [
    [`${size}:${forge(root)}`, "does not start with the records that it had"],
    ["1000000:" + root, "The audit log had 1000000 records, and has"],
    [`${lines[1]}\n${size}:${forge(root)}`, "remembers two different trees"],
  ] as const) {
    writeFileSync(heads, `${line}\n`);
    const { code, stderr } = await prove();
    expect([code, stderr]).toEqual([5, expect.stringContaining(says)]);
    expect(readFileSync(heads, "utf8")).toBe(`${line}\n`);
  }
  writeFileSync(heads, "no head\n");
  expect(await prove()).toMatchObject({ code: 2, stderr: expect.stringContaining("line 1 of") as unknown });
});

test("the hash of every record is computed here as it is in the service", async () => {
  const users = there.app.client(UserService);
  const { userId } = await newUser(users);
  await users.updateUser({ user: { userId, profile: { bio: "new" } }, updateMask: { paths: ["profile"] } });
  const odd = 'Ä \u2028 "\\ 😀';
  await users.deleteUser({ userId: odd }).catch(() => undefined);
  const { records } = await audit.listAuditRecords({ pageSize: 1000 });
  expect(records.length).toBeGreaterThan(3);
  expect(records.map(({ resource }) => resource?.name)).toContain(odd);
  for (const record of records) expect(recordHash(record), record.auditId).toBe(record.hash);
});

test("a service that lies is found out by a process of its own", async () => {
  await newUser(there.app.client(UserService));
  await using liar = await lyingService(audit);
  const heads = join(folder.path, "heads-of-a-liar");
  const { treeHead } = await audit.getAuditTreeHead({ treeSize: 1n });
  writeFileSync(heads, `1:${treeHead?.rootHash}\n`);
  const honest = lucid(there.app.grpcAddress).run("proof", "log", "--heads", heads);
  expect(await honest).toMatchObject({ code: 0, stderr: "" });
  writeFileSync(heads, `1:${treeHead?.rootHash}\n`);
  const { code, stdout, stderr } = await lucid(liar.address).json("proof", "log", "--heads", heads);
  expect(code).toBe(5);
  expect(JSON.parse(stderr)).toMatchObject({
    error: { message: expect.stringContaining("does not hold") as unknown },
    exitCode: 5,
  });
  // What it said is the evidence.
  expect(JSON.parse(stdout)).toMatchObject({ second: { rootHash: liar.rootHash } });
  expect(readFileSync(heads, "utf8")).toBe(`1:${treeHead?.rootHash}\n`);

  // Nor does a file remember what is no head, and could be several.
  const none = join(folder.path, "heads-of-nobody");
  const first = await lucidInside(liar.address).run("proof", "log", "--heads", none);
  expect([first.code, first.stderr]).toEqual([
    5,
    expect.stringContaining("The root of the log that the service names"),
  ]);
  expect(existsSync(none)).toBe(false);
});

/** A service whose audit log is another one than it was. */
async function lyingService(honest: Client<typeof AuditLogService>) {
  const rootHash = "f".repeat(64);
  const served = await servedBy((router) =>
    router.service(AuditLogService, {
      getAuditTreeHead: () => ({ treeHead: { treeSize: 1n, rootHash: `${rootHash}\n2:${rootHash}` } }),
      async getAuditConsistencyProof(request) {
        const response = await honest.getAuditConsistencyProof(request);
        if (response.second !== undefined) response.second.rootHash = rootHash;
        return response;
      },
    }),
  );
  return { ...served, rootHash };
}

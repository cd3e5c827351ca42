import { randomUUID } from "node:crypto";

import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";

import { type Manifest, ManifestValidationStatus } from "../../gen/lucid/repository/v1/manifest_pb.ts";
import { merkleRoot } from "../../src/proofs/merkle.ts";
import { begunIn, runs, within } from "../support/sequences.ts";
import { hashOf, type ManifestsApp, manifestsApp, storeChunks, upTo } from "./manifest-support.ts";
import { refusalOf } from "./support.ts";

let service: ManifestsApp;
beforeAll(async () => {
  service = await manifestsApp();
});
afterAll(() => service[Symbol.asyncDispose]());

/** What a manifest must be, as far as the model tells. */
interface Modelled {
  id: string;
  readonly root: string;
  readonly count: number;
  transaction?: string;
  status: ManifestValidationStatus;
  isDeleted: boolean;
  revision: bigint;
}

interface Operation {
  readonly name: string;
  /** Which of the manifests that were made, counted round and round. */
  readonly of?: number;
  /** Index of a chunk. */
  readonly at?: number;
  readonly transaction?: string;
}

const operation: fc.Arbitrary<Operation> = fc.oneof(
  fc.record({ name: fc.constantFrom("add", "create", "create") }),
  fc.record({ name: fc.constantFrom("delete", "undelete", "validate"), of: fc.nat(5) }),
  fc.record({ name: fc.constantFrom("alter", "restore"), at: fc.nat(9) }),
  fc.record({ name: fc.constant("anchor"), of: fc.nat(5), transaction: fc.constantFrom("one", "two") }),
  fc.record({ name: fc.constant("prove"), of: fc.nat(5), at: fc.nat(9) }),
);

/** What must come of an operation: the manifest as it is then, or the reason of its failure. */
type Outcome = Modelled | string;

/** The chunks of a session and its manifests as they must be. */
class SessionModel {
  /** What each chunk's hash is made of. */
  readonly contents: (number | string)[] = [];
  readonly made: Modelled[] = [];

  async rootOf(count: number): Promise<string> {
    const hashes = this.contents.slice(0, count).map((content) => Buffer.from(hashOf(content), "hex"));
    return Buffer.from((await merkleRoot(hashes)).root).toString("hex");
  }

  one({ of = 0 }: Operation): Modelled | undefined {
    return this.made[of % Math.max(1, this.made.length)];
  }

  async outcomeOf(asked: Operation): Promise<Outcome> {
    if (asked.name === "create") return this.create();
    const one = this.one(asked);
    if (one === undefined) return "MANIFEST_NOT_FOUND";
    if (asked.name === "undelete") return this.undelete(one);
    if (one.isDeleted) return "MANIFEST_NOT_FOUND";
    if (asked.name === "prove") return this.prove(one, asked.at ?? 0);
    if (asked.name === "anchor") {
      if (one.transaction !== undefined && one.transaction !== asked.transaction) return "MANIFEST_ALREADY_ANCHORED";
      one.transaction = asked.transaction ?? "";
    }
    if (asked.name === "delete") one.isDeleted = true;
    if (asked.name === "validate") {
      const isValid = this.contents.length === one.count && (await this.rootOf(one.count)) === one.root;
      one.status = isValid ? ManifestValidationStatus.VALID : ManifestValidationStatus.INVALID;
    }
    one.revision += 1n;
    return one;
  }

  private async create(): Promise<Outcome> {
    const count = this.contents.length;
    if (this.made.some(({ isDeleted }) => !isDeleted)) return "MANIFEST_ALREADY_EXISTS";
    const status = ManifestValidationStatus.PENDING;
    this.made.push({ id: "", root: await this.rootOf(count), count, status, isDeleted: false, revision: 1n });
    return this.made.at(-1) ?? "";
  }

  private undelete(one: Modelled): Outcome {
    if (!one.isDeleted) return "MANIFEST_NOT_DELETED";
    if (this.made.some(({ isDeleted }) => !isDeleted)) return "MANIFEST_ALREADY_EXISTS";
    one.isDeleted = false;
    one.revision += 1n;
    return one;
  }

  private async prove(one: Modelled, at: number): Promise<Outcome> {
    if (at >= one.count) return "CHUNK_OUT_OF_RANGE";
    return (await this.rootOf(one.count)) === one.root ? one : "MANIFEST_ROOT_MISMATCH";
  }
}

/** One session in the service, with its model beside it. */
function session() {
  const { manifests, db } = service;
  const chunks = db.collection("chunks");
  const sessionId = randomUUID();
  const model = new SessionModel();

  const setContent = async (at: number, content: number | string) => {
    if (at >= model.contents.length) return;
    model.contents[at] = content;
    await chunks.updateOne({ session_id: sessionId, chunk_index: at }, { $set: { hash: hashOf(content) } });
  };

  const call = async (asked: Operation, manifestId: string): Promise<{ manifest?: Manifest | undefined }> => {
    switch (asked.name) {
      case "create":
        return manifests.createManifest({ manifest: { sessionId } });
      case "delete":
        return manifests.deleteManifest({ manifestId });
      case "undelete":
        return manifests.undeleteManifest({ manifestId });
      case "validate":
        return manifests.validateManifest({ manifestId });
      case "anchor":
        return manifests.recordManifestAnchor({
          manifestId,
          blockchainTransactionId: hashOf(asked.transaction ?? ""),
        });
      default: {
        const { at = 0 } = asked;
        const answer = await manifests.getInclusionProof({ manifestId, chunkIndex: BigInt(at) });
        const { proof, chunkHash, merkleRoot: root } = answer;
        expect(chunkHash).toBe(hashOf(model.contents[at] ?? ""));
        const checked = { ...(proof && { proof }), chunkHash, merkleRoot: root };
        expect((await manifests.verifyInclusionProof(checked)).valid).toBe(true);
        return manifests.getManifest({ manifestId });
      }
    }
  };

  return async (asked: Operation): Promise<void> => {
    const { name, at = 0 } = asked;
    if (name === "add") {
      const index = model.contents.push(model.contents.length) - 1;
      await storeChunks(db, sessionId, [index]);
      return;
    }
    if (name === "alter") return setContent(at, `altered ${at}`);
    if (name === "restore") return setContent(at, at);
    const id = model.one(asked)?.id ?? "none";
    const expected = await model.outcomeOf(asked);
    if (typeof expected === "string") {
      expect((await refusalOf(call(asked, id))).reason).toBe(expected);
      return;
    }
    const { manifest } = await call(asked, id);
    if (name === "create") expected.id = manifest?.manifestId ?? "";
    expect(manifest).toMatchObject({
      manifestId: expected.id,
      sessionId,
      merkleRoot: expected.root,
      chunkCount: BigInt(expected.count),
      blockchainAnchored: expected.transaction !== undefined,
      validationStatus: expected.status,
      revision: expected.revision,
    });
    expect(manifest?.blockchainTransactionId).toBe(expected.transaction && hashOf(expected.transaction));
    expect(manifest?.deletedAt !== undefined).toBe(expected.isDeleted);
    expect(manifest?.validationErrors.length === 0).toBe(expected.status !== ManifestValidationStatus.INVALID);
  };
}

test(
  "whatever is done to manifests and their chunks, they are what a plain model says",
  { timeout: within(300_000) },
  async () => {
    expect.hasAssertions();
    const sequences = fc.array(fc.array(operation, { minLength: 4, maxLength: 14 }), { minLength: 5, maxLength: 5 });
    await fc.assert(
      fc.asyncProperty(
        sequences,
        begunIn(20_000, async (all) => {
          // Sessions know nothing of each other, so that several go on at once.
          await Promise.all(
            all.map(async (operations) => {
              const step = session();
              for (const _ of upTo(2)) await step({ name: "add" });
              await step({ name: "create" });
              for (const each of operations) await step(each);
            }),
          );
        }),
      ),
      runs({ numRuns: 12 }, 5),
    );
  },
);

import { createHash, randomUUID } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import type { Db } from "mongodb";

import type { Manifest, ManifestSchema } from "../../gen/lucid/repository/v1/manifest_pb.ts";
import { ManifestService } from "../../gen/lucid/repository/v1/manifest_service_pb.ts";
import { type TestApp, testApp } from "../support/app.ts";
import { uniqueName } from "../support/stores.ts";

/** The service with a domain database that tests can look into. */
export interface ManifestsApp extends AsyncDisposable {
  readonly app: TestApp;
  /** Clients of both listeners. */
  readonly manifests: Client<typeof ManifestService>;
  readonly overHttp: Client<typeof ManifestService>;
  readonly db: Db;
}

export async function manifestsApp(): Promise<ManifestsApp> {
  const name = uniqueName("manifests");
  const app = await testApp({ LUCID_MONGODB_DATABASE: name });
  const db = app.mongodb.db(name, { useBigInt64: true });
  return {
    app,
    manifests: app.client(ManifestService),
    overHttp: app.http(ManifestService),
    db,
    async [Symbol.asyncDispose]() {
      await db.dropDatabase();
      await app[Symbol.asyncDispose]();
    },
  };
}

/** A hash for each number. */
export const hashOf = (about: number | string) => createHash("sha256").update(`${about}`).digest("hex");

/** Stores chunks of a new session as they are after an upload. Chunk `index` has `index + 1` bytes and the hash of its index. */
export async function newSession(db: Db, indexes: readonly number[]): Promise<string> {
  const sessionId = randomUUID();
  await storeChunks(db, sessionId, indexes);
  return sessionId;
}

export async function storeChunks(db: Db, sessionId: string, indexes: readonly number[]): Promise<void> {
  const chunks = indexes.map((index) => ({
    chunk_id: randomUUID(),
    session_id: sessionId,
    chunk_index: BigInt(index),
    size_bytes: BigInt(index + 1),
    hash: hashOf(index),
    status: "STORED",
    created_at: new Date(),
    updated_at: new Date(),
    revision: 1n,
  }));
  if (chunks.length > 0) await db.collection("chunks").insertMany(chunks);
}

export const upTo = (count: number) => Array.from({ length: count }, (_, index) => index);

/** A manifest with a root that is given and means nothing. */
export function manifestInit(
  init: MessageInitShape<typeof ManifestSchema> = {},
): MessageInitShape<typeof ManifestSchema> {
  return { sessionId: randomUUID(), merkleRoot: hashOf("root"), chunkCount: 3n, totalSize: 6n, ...init };
}

export async function newManifest(
  manifests: Client<typeof ManifestService>,
  init: MessageInitShape<typeof ManifestSchema> = manifestInit(),
): Promise<Manifest> {
  const { manifest } = await manifests.createManifest({ manifest: init });
  if (manifest === undefined) throw new Error("No manifest was returned");
  return manifest;
}

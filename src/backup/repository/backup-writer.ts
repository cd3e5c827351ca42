import { setImmediate } from "node:timers/promises";

import { create, type MessageInitShape } from "@bufbuild/protobuf";

import { type Manifest, ManifestSchema } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail } from "../../errors.ts";
import type { RecordSink, StreamWriter } from "../contracts.ts";
import type { ChunkReference } from "./chunk-reference.ts";
import type { ChunkTable } from "./chunk-table.ts";
import type { Keys } from "./keys.ts";
import { listPacks, loadKnownChunks } from "./known-chunks.ts";
import { checkBackupId, lookAtManifest, rootHashOf, sealManifest } from "./manifests.ts";
import { hex, objectNames } from "./names.ts";
import { PackUses } from "./pack-uses.ts";
import { PackWriter } from "./pack-writer.ts";
import { announce, type Presence } from "./presence.ts";
import { boundariesOf, chunkSizes, listChunkSizes } from "./record-cutter.ts";
import { FORMAT_VERSION } from "./repository-config.ts";
import { Slots } from "./slots.ts";
import { sparsePacks } from "./sparse-packs.ts";
import type { ObjectStorage } from "./storage.ts";
import { ChunkedStreamWriter, type ChunkSink } from "./stream-writer.ts";

/** Chunks that are compressed or wait for a place in a pack. Of libuv's four threads one is left to read and write files. */
const CHUNKS_AT_ONCE = 3;
/** About a millisecond of work. */
const KNOWN_CHUNKS_IN_A_ROW = 8;
const MOST_IDLE_BUFFERS = 16;
/**
 * Chunks that a writer remembers, the newest: 36 bytes each, so 75 MB for the 128 GB that they stand for. Of a larger repository
 * the rest is stored again rather than kept in memory.
 */
const MOST_KNOWN_CHUNKS = 2 * 1024 * 1024;

/** What the repository fills in by itself. */
type FilledIn = "formatVersion" | "backupId" | "rootHash" | "packs" | "packBytes" | "storedBytes";
/** What the writer of a backup knows of it. */
export type ManifestInit = Omit<
  Exclude<MessageInitShape<typeof ManifestSchema>, Manifest>,
  FilledIn | "$typeName" | "$unknown"
>;

/** Writes one backup. Disposing it unsealed gives the backup up; what is stored of it serves the next one until it is collected. */
export interface BackupWriter extends RecordSink, AsyncDisposable {
  /** Bytes that are durable in the repository because of this backup. */
  readonly bytesWritten: number;
  /**
   * Ends the backup: it exists when this resolves and does not before. All streams must be sealed or disposed. Fails with
   * `BACKUP_ALREADY_EXISTS` where another writer has sealed a backup of this id, `JOB_LEASE_LOST` where this one was given up
   * (it was not heard of for an hour) or its backup was deleted, `BACKUP_CHUNK_MISSING` where a pack has vanished.
   */
  seal(manifest: ManifestInit): Promise<Manifest>;
}

/** What the manifest can say of a pack's use: more than a pack has, but a chunk that comes again counts again. */
const MOST_PACK_BYTES = 0xffff_ffff;

interface Place {
  readonly storage: ObjectStorage;
  readonly keys: Keys;
}

/**
 * Begins a backup: announces it and loads which chunks there are. Fails with `BACKUP_ALREADY_EXISTS`, and `JOB_LEASE_LOST` where
 * a backup of this id was deleted or given up.
 */
export async function beginBackup(place: Place, backupId: string, signal: AbortSignal): Promise<BackupWriter> {
  checkBackupId(backupId);
  await refuseTakenId(place.storage, backupId, signal);
  const presence = await announce(place, backupId, signal);
  try {
    const packs = await listPacks(place.storage, signal);
    for (const pack of await sparsePacks(place, packs, signal)) packs.delete(pack);
    for (const pack of presence.condemned) packs.delete(pack);
    const options = { packs: packs.keys(), most: MOST_KNOWN_CHUNKS };
    return new ChunkedBackupWriter(place, backupId, presence, await loadKnownChunks(place, options, signal), signal);
  } catch (error) {
    await presence[Symbol.asyncDispose]();
    throw error;
  }
}

class ChunkedBackupWriter implements BackupWriter {
  readonly #place: Place;
  readonly #backupId: string;
  readonly #presence: Presence;
  readonly #known: ChunkTable;
  readonly #failing = new AbortController();
  readonly #signal: AbortSignal;
  readonly #packs: PackWriter;
  readonly #sink: ChunkSink;

  readonly #slots = new Slots(CHUNKS_AT_ONCE);
  readonly #jobs = new Set<Promise<void>>();
  /** Who waits for chunks that are on their way into a pack, by name. */
  readonly #pending = new Map<string, ((reference: ChunkReference) => void)[]>();
  readonly #idle: Buffer[] = [];
  /** Packs that sealed streams refer to. */
  readonly #referred = new PackUses();
  #openStreams = 0;
  #sincePause = 0;
  #state: "open" | "sealing" | "sealed" | "closed" = "open";

  constructor(place: Place, backupId: string, presence: Presence, known: ChunkTable, signal: AbortSignal) {
    this.#place = place;
    this.#backupId = backupId;
    this.#presence = presence;
    this.#known = known;
    // Whatever fails first stops everything, and everything then fails with that.
    this.#signal = AbortSignal.any([signal, this.#failing.signal]);
    this.#packs = new PackWriter({ ...place, writerId: presence.writerId, signal: this.#signal }, (error) =>
      this.#failing.abort(error),
    );
    this.#sink = {
      boundaries: boundariesOf(place.keys, chunkSizes),
      listBoundaries: boundariesOf(place.keys, listChunkSizes),
      takeBuffer: () => this.#idle.pop() ?? Buffer.allocUnsafeSlow(chunkSizes.most),
      giveBuffer: (buffer) => this.#giveBuffer(buffer),
      put: (buffer, length, done) => this.#put(buffer, length, done),
      check: () => this.#signal.throwIfAborted(),
      settled: async () => void (await Promise.all(this.#jobs)),
      sealed: (packs) => {
        for (const { pack, bytes } of packs) this.#referred.add(pack, bytes);
      },
      closed: () => void this.#openStreams--,
    };
  }

  get bytesWritten(): number {
    return this.#packs.bytesWritten;
  }

  open(): StreamWriter {
    if (this.#state !== "open") throw new Error("The backup is sealed or given up");
    this.#openStreams++;
    return new ChunkedStreamWriter(this.#sink);
  }

  async seal(init: ManifestInit): Promise<Manifest> {
    if (this.#state !== "open") throw new Error("The backup is sealed or given up");
    if (this.#openStreams > 0) throw new Error(`${this.#openStreams} streams of the backup are open`);
    this.#state = "sealing";
    const manifest = create(ManifestSchema, { ...init, formatVersion: FORMAT_VERSION, backupId: this.#backupId });
    checkCounts(manifest);
    await Promise.all(this.#jobs);
    await this.#packs.flush();
    const uses = [...this.#referred.all].toSorted((a, b) => a.pack.compare(b.pack));
    const packs = uses.map(({ pack }) => pack);
    await this.#checkPresent(packs);
    manifest.packs = Buffer.concat(packs);
    manifest.packBytes = uses.map(({ bytes }) => Math.min(bytes, MOST_PACK_BYTES));
    manifest.rootHash = rootHashOf(manifest.units);
    manifest.storedBytes = BigInt(this.#packs.bytesWritten);
    await this.#publish(await sealManifest(this.#place.keys, manifest));
    this.#state = "sealed";
    return manifest;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state === "closed") return;
    if (this.#state !== "sealed") this.#failing.abort(new Error("The backup was given up"));
    this.#state = "closed";
    await Promise.all(this.#jobs);
    await this.#packs.close();
    await this.#presence[Symbol.asyncDispose]();
  }

  async #put(buffer: Buffer, length: number, done: (reference: ChunkReference) => void): Promise<void> {
    const plain = buffer.subarray(0, length);
    const name = this.#place.keys.chunkName(plain);
    if (this.#isKnown(name, buffer, length, done)) {
      // Nothing here waits for anything: without a pause, data that is known would keep the process from all else.
      if (++this.#sincePause % KNOWN_CHUNKS_IN_A_ROW === 0) await setImmediate();
      return;
    }
    await this.#slots.take();
    // Meanwhile another stream may have come with the same chunk.
    if (this.#signal.aborted || this.#isKnown(name, buffer, length, done)) {
      this.#slots.give();
      return;
    }
    const key = name.toString("latin1");
    const waiting = [done];
    this.#pending.set(key, waiting);
    const job = this.#store(name, buffer, length, waiting).finally(() => {
      this.#pending.delete(key);
      this.#jobs.delete(job);
      this.#slots.give();
    });
    this.#jobs.add(job);
  }

  /** Never rejects: a failure stops the writer. */
  async #store(
    name: Buffer,
    buffer: Buffer,
    length: number,
    waiting: readonly ((reference: ChunkReference) => void)[],
  ): Promise<void> {
    try {
      const reference = await this.#packs.add(name, buffer.subarray(0, length));
      this.#known.add(name, reference.pack, reference.offset, reference.sealedLength);
      for (const inform of waiting) inform(reference);
      this.#giveBuffer(buffer);
    } catch (error) {
      this.#failing.abort(error);
    }
  }

  #isKnown(name: Buffer, buffer: Buffer, length: number, done: (reference: ChunkReference) => void): boolean {
    const reference = this.#known.find(name, length);
    const waiting = reference === undefined ? this.#pending.get(name.toString("latin1")) : undefined;
    if (reference === undefined && waiting === undefined) return false;
    this.#giveBuffer(buffer);
    if (reference !== undefined) done(reference);
    else waiting?.push(done);
    return true;
  }

  #giveBuffer(buffer: Buffer): void {
    if (this.#idle.length < MOST_IDLE_BUFFERS) this.#idle.push(buffer);
  }

  /** Nothing removes a pack that this writer may refer to; but a folder can be tampered with, and a backup takes long. */
  async #checkPresent(packs: readonly Buffer[]): Promise<void> {
    const present = await listPacks(this.#place.storage, this.#signal);
    const missing = packs.find((pack) => !present.has(hex(pack)));
    if (missing === undefined) return;
    throw fail("BACKUP_CHUNK_MISSING", "A pack that the backup needs has vanished", {
      metadata: { backup_id: this.#backupId, pack: hex(missing) },
    });
  }

  async #publish(object: Buffer): Promise<void> {
    const name = objectNames.manifest(this.#backupId);
    if (await this.#place.storage.put(name, object, { ifAbsent: true, signal: this.#signal })) return;
    await refuseTakenId(this.#place.storage, this.#backupId, this.#signal);
    throw new Error("A manifest was in the way and is gone");
  }
}

async function refuseTakenId(storage: ObjectStorage, backupId: string, signal: AbortSignal): Promise<void> {
  const metadata = { backup_id: backupId };
  switch ((await lookAtManifest(storage, backupId, signal)).state) {
    case "absent":
      return;
    case "present":
      throw fail("BACKUP_ALREADY_EXISTS", `Backup ${backupId} exists already`, { metadata });
    case "revoked":
      throw fail("JOB_LEASE_LOST", `Backup ${backupId} was deleted or given up`, { metadata });
  }
}

/** A manifest whose sums are wrong could never be verified. */
function checkCounts({ units }: Manifest): void {
  for (const { name, recordCount, recordBytes, streams } of units) {
    const count = streams.reduce((sum, stream) => sum + stream.recordCount, 0n);
    const bytes = streams.reduce((sum, stream) => sum + stream.recordBytes, 0n);
    if (count !== recordCount || bytes !== recordBytes)
      throw new Error(`The counts of unit ${name} are not those of its streams`);
  }
}

import { createHash, randomUUID } from "node:crypto";

import { create, fromJsonString, type MessageInitShape, toJsonString } from "@bufbuild/protobuf";

import { type StoredVolume, StoredVolumeSchema, VolumeSchema } from "../../../gen/lucid/admin/v1/volume_pb.ts";
import { fail, isReason } from "../../errors.ts";
import { Directory, isSame, type Name } from "./directory.ts";
import { fileFailure, hasFileCode, isChangedMeanwhile, ofVolume } from "./failures.ts";
import { readOwnFile, removeOwnFile, writeOwnFile } from "./own-files.ts";
import { patience } from "./patience.ts";
import { removeTree } from "./remove-tree.ts";

/** Where the service keeps what it knows of a volume, in the volume. */
const ownName = Buffer.from(".lucid");
/** What deleted volumes are called until all that is in them is gone. No volume can have such a name. */
const removedPrefix = ".lucid-removed-";
/** What a volume is called, with its name, while it is looked at whether it is the one to be deleted. */
const takenPrefix = ".lucid-taken-";
const takenName = /^\.lucid-taken-[0-9a-f-]{36}-([a-z0-9][a-z0-9_-]{0,62})$/;
/** A volume that has been taken for so long was left by a process that died. */
const staleTakenMs = 10 * 60_000;
const volumeName = /^[a-z0-9][a-z0-9_-]{0,62}$/;
const descriptionName = /^volume\.([1-9][0-9]{0,14})\.json$/;
const mostDescriptionBytes = 64 * 1024;
/** A reader that was overtaken by a writer reads again. */
const mostReads = 20;

/** A volume that is open: as long as it is, all paths in it begin at the very directories that were opened. */
export interface OpenVolume extends AsyncDisposable {
  readonly name: string;
  /** Everything that belongs to whoever uses the volume, and the service's own directory. */
  readonly top: Directory;
  /** The service's own directory. */
  readonly own: Directory;
  readonly stored: StoredVolume;
  /** Counts the changes of the description. */
  readonly revision: number;
}

/** A new volume. */
export interface NewVolume {
  readonly name: string;
  readonly stored: MessageInitShape<typeof StoredVolumeSchema>;
  /** Whether a directory that holds something may become it. */
  readonly adopt: boolean;
}

/** The volumes below a root. Nothing is kept open or known between two calls: the file system is the only truth. */
export interface Volumes {
  /** Names of all volumes, sorted. */
  names(): Promise<string[]>;
  /** Opens a volume. Fails with `VOLUME_NOT_FOUND`, `VOLUME_DAMAGED`. */
  open(name: string): Promise<OpenVolume>;
  /** Makes a volume; false where there is one. Fails with `VOLUME_NOT_EMPTY`. */
  create(volume: NewVolume): Promise<boolean>;
  /** Puts a description in the place of the one that was read; false where another came first. */
  describe(volume: OpenVolume, stored: StoredVolume): Promise<boolean>;
  /**
   * Takes away the very volume that is open; what is in it is removed by `removeRemains`. With `asRead` it returns false, and leaves
   * it, where its description has changed. Fails with `VOLUME_IN_USE`, and with `VOLUME_CHANGED` where something else has its name.
   */
  remove(volume: OpenVolume, options: { readonly asRead: boolean }): Promise<boolean>;
  /**
   * Removes what is left of deleted volumes, also of those that another process deleted. Gives a volume its name back that a process had
   * taken and not judged when it died.
   */
  removeRemains(options: { readonly signal: AbortSignal; readonly takenBeforeMs?: number }): Promise<void>;
}

/** Whether a text can be the name of a volume. */
export function isVolumeName(name: string): boolean {
  return volumeName.test(name);
}

/** Whether an entry at the top of a volume is the service's own. */
export function isOwn(name: Name): boolean {
  return name.equals(ownName);
}

/** The volumes below `dir`, which need not be there yet. Every call fails with `VOLUMES_NOT_CONFIGURED` where it is empty. */
export function openVolumes({ dir }: { readonly dir: string }): Volumes {
  const answered = patience();
  const openRoot = async (): Promise<Directory> => {
    if (dir === "") {
      throw fail("VOLUMES_NOT_CONFIGURED", "This service has no volumes; LUCID_VOLUME_DIR names the folder for them");
    }
    try {
      return await Directory.openRoot(dir);
    } catch (error) {
      if (!hasFileCode(error, "ENOENT", "ENOTDIR")) throw error;
      throw fail("VOLUME_STORAGE_UNAVAILABLE", "The folder of the volumes is away", { cause: error });
    }
  };

  return {
    async names() {
      await using root = await openRoot();
      const names: string[] = [];
      for await (const some of root.names()) {
        for (const name of some) {
          const text = name.toString("latin1");
          if (volumeName.test(text) && (await mayBeVolume(answered(text, () => hasOwn(root, name))))) names.push(text);
        }
      }
      return names.toSorted();
    },

    async open(name) {
      if (!volumeName.test(name)) throw volumeNotFound(name);
      await using root = await openRoot();
      try {
        return await answered(
          name,
          () => openIn(root, name),
          (volume) => void volume[Symbol.asyncDispose](),
        );
      } catch (error) {
        throw ofVolume(name, error);
      }
    },

    async create({ name, stored, adopt }) {
      await using root = await openRoot();
      await root.makeDirectory(Buffer.from(name)).catch(unlessExists);
      await using top = await root.open(Buffer.from(name), { mounted: true });
      if (!adopt) await requireEmpty(top, name);
      await top.makeDirectory(ownName).catch(unlessExists);
      await using own = await top.open(ownName);
      if ((await readDescription(own, name)) !== undefined) return false;
      const isFirst = await writeOwnFile(own, "volume.1.json", encode(create(StoredVolumeSchema, stored)), {
        ifAbsent: true,
      });
      await top.sync();
      await root.sync();
      return isFirst;
    },

    async describe({ own, revision }, stored) {
      const next = `volume.${revision + 1}.json`;
      if (!(await writeOwnFile(own, next, encode(stored), { ifAbsent: true }))) return false;
      await removeOwnFile(own, `volume.${revision}.json`);
      return true;
    },

    async remove(volume, { asRead }) {
      const { name, top, own, revision } = volume;
      await using root = await openRoot();
      // Whatever has the name is moved first: what was moved cannot be exchanged between the look at it and its end.
      const taken = Buffer.from(`${takenPrefix}${randomUUID()}-${name}`);
      await root.rename(Buffer.from(name), root, taken).catch((error: unknown) => {
        throw notTaken(name, error);
      });
      const now = await root.find(taken);
      const isIt = now !== undefined && isSame(now, top.stat);
      const isAsRead = !asRead || (await readDescription(own, name))?.revision === revision;
      if (isIt && isAsRead) {
        await root.rename(taken, root, Buffer.from(`${removedPrefix}${randomUUID()}`));
        await root.sync();
        return true;
      }
      await giveBack(root, taken, name);
      if (isIt) return false;
      throw volumeReplaced(name);
    },

    async removeRemains({ signal, takenBeforeMs = Date.now() - staleTakenMs }) {
      await using root = await openRoot();
      const failures: unknown[] = [];
      for await (const names of root.names()) {
        for (const name of names) {
          const text = name.toString("latin1");
          // One that cannot be removed keeps no other from it.
          const note = (error: unknown): void => void failures.push(error);
          if (text.startsWith(removedPrefix)) await removeTree(root, name, signal).catch(note);
          const [, volume] = takenName.exec(text) ?? [];
          if (volume === undefined) continue;
          const stat = await root.find(name);
          const isLeft = stat !== undefined && Number(stat.ctimeMs) < takenBeforeMs;
          if (isLeft) await giveBack(root, name, volume).catch(note);
        }
      }
      if (failures.length > 0) throw failures[0];
    },
  };
}

/** There is no such volume. */
export function volumeNotFound(name: string): Error {
  return fail("VOLUME_NOT_FOUND", `There is no volume ${name}`, {
    metadata: { volume: name },
    resource: { type: VolumeSchema.typeName, name },
  });
}

function volumeDamaged(name: string, cause?: unknown): Error {
  return fail("VOLUME_DAMAGED", `The description of the volume ${name} cannot be read`, {
    metadata: { volume: name },
    resource: { type: VolumeSchema.typeName, name },
    cause,
  });
}

/**
 * Fails with `VOLUME_CHANGED` or `VOLUME_NOT_FOUND` where a volume that is open has its name no more. Whoever has a volume open that
 * was deleted or replaced could go on reading and filling it, and nobody would see what becomes of that.
 */
export async function requireStillThere(volumes: Volumes, { name, top }: OpenVolume): Promise<void> {
  await using now = await volumes.open(name);
  if (!isSame(now.top.stat, top.stat)) throw volumeReplaced(name);
}

/** Something else has the name of a volume that was open. */
export function volumeReplaced(name: string): Error {
  const message = `Something else was put in the place of the volume ${name} meanwhile`;
  return fail("VOLUME_CHANGED", message, { metadata: { volume: name } });
}

function notTaken(name: string, error: unknown): unknown {
  if (hasFileCode(error, "ENOENT")) return volumeNotFound(name);
  if (!hasFileCode(error, "EBUSY", "EXDEV")) return error;
  return fail("VOLUME_IN_USE", `The volume ${name} is where a file system is mounted; unmount it first`, {
    metadata: { volume: name },
    cause: error,
  });
}

/** Gives what was taken its name again. Where something else has that by now, it stays under the name that it has, and that is told. */
async function giveBack(root: Directory, taken: Name, name: string): Promise<void> {
  if ((await root.find(Buffer.from(name))) === undefined) {
    await root.rename(taken, root, Buffer.from(name));
    await root.sync();
    return;
  }
  const message = `A volume ${name} was to be deleted, and its name was given to another one before it was judged; rename or remove it`;
  throw fail("VOLUME_CHANGED", message, { metadata: { volume: name, directory: taken.toString() } });
}

/**
 * Also true of one whose description is damaged, or that cannot be looked at, such as a mount whose server is away: it is to be seen
 * that it is, and it must hide no other.
 */
async function mayBeVolume(look: Promise<boolean>): Promise<boolean> {
  try {
    return await look;
  } catch (error) {
    if (hasFileCode(error, "ENOENT", "ENOTDIR", "ELOOP")) return false;
    if (isReason(error, "VOLUME_STORAGE_UNAVAILABLE")) return true;
    if (error instanceof Error && fileFailure(error) !== undefined) return true;
    throw error;
  }
}

async function hasOwn(root: Directory, name: Name): Promise<boolean> {
  await using top = await root.open(name, { mounted: true });
  return (await top.find(ownName)) !== undefined;
}

async function openIn(root: Directory, name: string): Promise<OpenVolume> {
  await using stack = new AsyncDisposableStack();
  const top = stack.use(await openVolumeDirectory(root, name));
  const own = stack.use(await openOwn(top, name));
  const found = await readDescription(own, name);
  if (found === undefined) throw volumeNotFound(name);
  const kept = stack.move();
  return { name, top, own, ...found, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}

async function openVolumeDirectory(root: Directory, name: string): Promise<Directory> {
  try {
    return await root.open(Buffer.from(name), { mounted: true });
  } catch (error) {
    if (hasFileCode(error, "ENOENT", "ENOTDIR", "ELOOP")) throw volumeNotFound(name);
    throw error;
  }
}

async function openOwn(top: Directory, name: string): Promise<Directory> {
  try {
    return await top.open(ownName);
  } catch (error) {
    if (hasFileCode(error, "ENOENT")) throw volumeNotFound(name);
    if (hasFileCode(error, "ENOTDIR", "ELOOP") || isReason(error, "VOLUME_PATH_REFUSED"))
      throw volumeDamaged(name, error);
    throw error;
  }
}

async function requireEmpty(top: Directory, name: string): Promise<void> {
  for await (const entries of top.entries()) {
    if (entries.every((entry) => isOwn(entry.name))) continue;
    const message = `The directory of the volume ${name} is there and not empty; set adopt to take it with what is in it`;
    throw fail("VOLUME_NOT_EMPTY", message, { metadata: { volume: name } });
  }
}

/** The description with the highest number; undefined where there is none. */
async function readDescription(
  own: Directory,
  name: string,
): Promise<Pick<OpenVolume, "stored" | "revision"> | undefined> {
  for (let read = 1; ; read++) {
    let revision = 0;
    for await (const entries of own.entries()) {
      for (const entry of entries) {
        const [, number = "0"] = descriptionName.exec(entry.name.toString("latin1")) ?? [];
        revision = Math.max(revision, Number(number));
      }
    }
    if (revision === 0) return undefined;
    const bytes = await readNumbered(own, revision, name);
    if (bytes !== undefined) return { stored: decode(bytes, name), revision };
    // It was replaced between the two looks.
    if (read === mostReads) throw volumeDamaged(name);
  }
}

async function readNumbered(own: Directory, revision: number, name: string): Promise<Buffer | undefined> {
  try {
    return await readOwnFile(own, `volume.${revision}.json`, { mostBytes: mostDescriptionBytes });
  } catch (error) {
    const isNoFile = isChangedMeanwhile(error) || isReason(error, "VOLUME_PATH_REFUSED");
    throw isNoFile || isReason(error, "VOLUME_DAMAGED") ? volumeDamaged(name, error) : error;
  }
}

function encode(stored: StoredVolume): Buffer {
  return Buffer.from(toJsonString(StoredVolumeSchema, stored, { prettySpaces: 2 }));
}

function decode(bytes: Buffer, name: string): StoredVolume {
  let stored: StoredVolume;
  try {
    stored = fromJsonString(StoredVolumeSchema, bytes.toString(), { ignoreUnknownFields: true });
  } catch (error) {
    throw volumeDamaged(name, error);
  }
  const { formatVersion, volume } = stored;
  if (formatVersion !== 1 || volume === undefined || volume.declaredBytes < 1n) throw volumeDamaged(name);
  return stored;
}

/** What tells two requests with the same id apart. */
export function digestOf(request: Uint8Array): Uint8Array {
  return createHash("sha256").update(request).digest();
}

function unlessExists(error: unknown): void {
  if (!hasFileCode(error, "EEXIST")) throw error;
}

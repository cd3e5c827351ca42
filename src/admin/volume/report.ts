import { timestampFromMs } from "@bufbuild/protobuf/wkt";

import type { Entry, Name } from "../../stores/volumes/directory.ts";
import { isOwn, type OpenVolume } from "../../stores/volumes/volumes.ts";
import { joinPath, shownPath, walk } from "../../stores/volumes/walk.ts";
import { toldEntry } from "./sweep.ts";

interface Group {
  files: number;
  bytes: bigint;
}

const KiB = 1024n;
const sizes: readonly (readonly [string, bigint])[] = [
  ["0 bytes", 0n],
  ["up to 4 KiB", 4n * KiB],
  ["up to 64 KiB", 64n * KiB],
  ["up to 1 MiB", KiB * KiB],
  ["up to 16 MiB", 16n * KiB * KiB],
  ["up to 256 MiB", 256n * KiB * KiB],
  ["up to 4 GiB", 4n * KiB * KiB * KiB],
  ["above 4 GiB", 1n << 63n],
];

const dayMs = 86_400_000;
const ages: readonly (readonly [string, number])[] = [
  ["up to 1 day", dayMs],
  ["up to 7 days", 7 * dayMs],
  ["up to 30 days", 30 * dayMs],
  ["up to 90 days", 90 * dayMs],
  ["up to 1 year", 365 * dayMs],
  ["above 1 year", Number.POSITIVE_INFINITY],
];

/** Kinds that are counted at once, far more than are told: of what is given up the smallest has least to say. */
const mostKinds = 2000;
/** Directories at the top that are counted at once. */
const mostDirectories = 10_000;

/** Goes through a volume, as far as the time suffices, and tells what is in it. */
export async function reportOf(
  { top }: Pick<OpenVolume, "top">,
  { largest, budgetMs, signal }: { readonly largest: number; readonly budgetMs: number; readonly signal: AbortSignal },
) {
  const beganMs = Date.now();
  const untilMs = performance.now() + budgetMs;
  const all: Group = { files: 0, bytes: 0n };
  const [bySize, byAge, byKind] = [new Map<string, Group>(), new Map<string, Group>(), new Map<string, Group>()];
  const files = largestOf<{ path: Name; entry: Entry; bytes: bigint }>(largest);
  const directories = new Map<string, { entry: Entry; bytes: bigint }>();
  let complete = true;
  for await (const step of walk(top, { signal, enters: (path) => !isOwn(path) })) {
    if (performance.now() > untilMs) {
      complete = false;
      break;
    }
    if (step.type === "skipped" && step.why !== "changed") complete = false;
    if (step.type !== "entries") continue;
    const [above = ""] = step.path.toString("latin1").split("/", 1);
    for (const entry of step.entries) {
      const { name, stat } = entry;
      if (step.path.length === 0 && stat.isDirectory() && !isOwn(name) && directories.size < mostDirectories) {
        directories.set(name.toString("latin1"), { entry, bytes: 0n });
      }
      if (!stat.isFile()) continue;
      const bytes = stat.size;
      const ageMs = beganMs - Number(stat.mtimeMs);
      add(all, bytes);
      addTo(bySize, sizes.find(([, most]) => bytes <= most)?.[0] ?? "", bytes);
      addTo(byAge, ages.find(([, most]) => ageMs <= most)?.[0] ?? "", bytes);
      addTo(byKind, kindOf(name), bytes);
      if (byKind.size > mostKinds) forgetSmallest(byKind);
      files.add({ path: joinPath(step.path, name), entry, bytes });
      const directory = directories.get(above);
      if (directory !== undefined && step.path.length > 0) directory.bytes += bytes;
    }
  }
  const topDirectories = [...directories.values()].toSorted(byBytes).slice(0, largest);
  return {
    reportTime: timestampFromMs(beganMs),
    complete,
    fileCount: BigInt(all.files),
    bytes: all.bytes,
    largestFiles: files.all().map(({ path, entry }) => toldEntry(path, entry)),
    largestDirectories: topDirectories.map(({ entry, bytes }) => toldEntry(entry.name, entry, bytes)),
    bySize: sizes.flatMap(([name]) => told(name, bySize.get(name))),
    byAge: ages.flatMap(([name]) => told(name, byAge.get(name))),
    byKind: [...byKind]
      .toSorted(([, one], [, other]) => byBytes(one, other))
      .slice(0, largest)
      .flatMap(([name, group]) => told(name, group)),
  };
}

function add(group: Group, bytes: bigint): void {
  group.files++;
  group.bytes += bytes;
}

function addTo(groups: Map<string, Group>, name: string, bytes: bigint): void {
  let group = groups.get(name);
  if (group === undefined) groups.set(name, (group = { files: 0, bytes: 0n }));
  add(group, bytes);
}

/** The end of a name from its last dot on, as it is shown; empty where there is none, or one that is no kind. */
function kindOf(name: Name): string {
  const dot = name.lastIndexOf(0x2e);
  const isKind = dot > 0 && name.length - dot <= 16 && dot < name.length - 1;
  return isKind ? shownPath(name.subarray(dot)).toLowerCase() : "";
}

/** Halves what is kept, so that it costs little for each file. */
function forgetSmallest(kinds: Map<string, Group>): void {
  const small = [...kinds].toSorted(([, one], [, other]) => byBytes(one, other)).slice(mostKinds / 2);
  for (const [name] of small) kinds.delete(name);
}

function byBytes(one: { readonly bytes: bigint }, other: { readonly bytes: bigint }): number {
  return one.bytes === other.bytes ? 0 : one.bytes < other.bytes ? 1 : -1;
}

function told(name: string, group: Group | undefined) {
  return group === undefined ? [] : [{ name, fileCount: BigInt(group.files), bytes: group.bytes }];
}

/** Keeps the largest few of many. */
function largestOf<T extends { readonly bytes: bigint }>(count: number) {
  const kept: T[] = [];
  return {
    add(item: T): void {
      const last = kept.at(-1);
      if (kept.length === count && last !== undefined && last.bytes >= item.bytes) return;
      const at = kept.findIndex(({ bytes }) => bytes < item.bytes);
      kept.splice(at === -1 ? kept.length : at, 0, item);
      if (kept.length > count) kept.pop();
    },
    all: (): readonly T[] => kept,
  };
}

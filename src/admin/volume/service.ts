import { create, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { type Duration, durationMs, timestampMs, timestampNow } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";

import { StoredVolumeSchema, type Volume, VolumeSchema, VolumeType } from "../../../gen/lucid/admin/v1/volume_pb.ts";
import {
  CreateVolumeRequestSchema,
  ListVolumesRequestSchema,
  type VolumeService,
  VolumeWindow,
} from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import { fail, isReason, reasonOf } from "../../errors.ts";
import type { CarryOut } from "../../schema/audited-call.ts";
import { maskedPaths } from "../../schema/field-mask.ts";
import { pageSizeOf, queryOf } from "../../schema/list-query.ts";
import { badRequest } from "../../schema/refusals.ts";
import { fileFailure } from "../../stores/volumes/failures.ts";
import { digestOf, type OpenVolume, type Volumes } from "../../stores/volumes/volumes.ts";
import { globOf } from "./glob.ts";
import { growthOf } from "./growth.ts";
import { healthOf } from "./health.ts";
import { inWindow, readHistory, toldSample } from "./history.ts";
import { beingMeasured, levelled, type Measures } from "./measures.ts";
import { type MigrationOptions, volumeMigrations } from "./migrations.ts";
import { measurePerformance } from "./performance.ts";
import { requireConfirmed } from "./refusals.ts";
import { reportOf } from "./report.ts";
import { sweep } from "./sweep.ts";

/** What VolumeService needs. */
export interface VolumeServiceOptions extends MigrationOptions {
  readonly measures: Measures;
  /** Tells the audit log of a change. */
  readonly carryOut: CarryOut;
}

const usual = {
  warningPercent: 80,
  criticalPercent: 90,
  measureMs: 5000,
  performance: { bytes: 16 * 1024 * 1024, blockBytes: 64 * 1024, budgetMs: 5000 },
  walkMs: 20_000,
  largest: 10,
  minAgeMs: 24 * 3_600_000,
  temporaryGlobs: ["*.tmp", "*.temp", "*.part", "*.partial", "*.swp", "*~"],
};

/** The part of a call's time that is left for its answer. */
const answerMs = 250;

/** The handlers of VolumeService. */
export function volumeService(options: VolumeServiceOptions): ServiceImpl<typeof VolumeService> {
  const { volumes, measures, pageTokens, carryOut, requireUnused } = options;
  let isMeasuringPerformance = false;

  /** One change of a volume's description: what `change` makes of it, once no other change has come between. */
  const describe = async (
    name: string,
    etag: string,
    change: (volume: Volume) => void,
    context: HandlerContext,
  ): Promise<Volume> => {
    await using volume = await volumes.open(name);
    requireEtag(volume, etag);
    const stored = create(StoredVolumeSchema, volume.stored);
    const description = create(VolumeSchema, stored.volume);
    change(description);
    description.updateTime = timestampNow();
    stored.volume = description;
    await carryOut(context, resourceOf(name), async () => {
      if (!(await volumes.describe(volume, stored))) throw etagMismatch(name);
    });
    return await told(await volumes.open(name));
  };

  return {
    ...volumeMigrations(options),

    async listVolumes(request) {
      const query = queryOf(ListVolumesRequestSchema, request);
      const after = pageTokens.decode(query, request.pageToken) ?? "";
      const size = pageSizeOf(request.pageSize);
      const found: Volume[] = [];
      for (const name of (await volumes.names()).filter((candidate) => candidate > after)) {
        const volume = await toldAnyway(volumes, name);
        if (volume === undefined || ![VolumeType.UNSPECIFIED, volume.type].includes(request.type)) continue;
        found.push(volume);
        if (found.length > size) break;
      }
      const page = found.slice(0, size);
      const last = page.at(-1);
      const nextPageToken = found.length > size && last !== undefined ? pageTokens.encode(query, last.name) : "";
      return { volumes: page, nextPageToken };
    },

    async getVolume({ name }) {
      return { volume: await told(await volumes.open(name)) };
    },

    async createVolume(request, context) {
      const { adopt, requestId } = request;
      const volume = newVolume(request);
      const { name } = volume;
      const requestDigest = digestOf(toBinary(CreateVolumeRequestSchema, request));
      const earlier = await createdBefore(volumes, name, { requestId, requestDigest });
      if (earlier !== undefined) return { volume: earlier };
      const stored = { formatVersion: 1, volume, requestId, requestDigest };
      await carryOut(context, resourceOf(name), async () => {
        // Another call may have come first: perhaps the same one.
        if (!(await volumes.create({ name, stored, adopt })))
          await createdBefore(volumes, name, { requestId, requestDigest });
      });
      return { volume: await told(await volumes.open(name)) };
    },

    async updateVolume({ volume: given, updateMask, etag }, context) {
      // Its proto requires it.
      const asked = given ?? create(VolumeSchema);
      const paths = maskedPaths(VolumeSchema, asked, updateMask);
      const change = (volume: Volume): void => {
        if (paths.includes("description")) volume.description = asked.description;
        if (paths.includes("warning_percent")) volume.warningPercent = asked.warningPercent || usual.warningPercent;
        if (paths.includes("critical_percent")) volume.criticalPercent = asked.criticalPercent || usual.criticalPercent;
        requireThresholds(volume);
      };
      return { volume: await describe(asked.name, etag, change, context) };
    },

    async resizeVolume({ name, declaredBytes, etag }, context) {
      await using volume = await volumes.open(name);
      requireEtag(volume, etag);
      const measured = await measures.takeExact(name, waiting(Number.POSITIVE_INFINITY, context));
      if (measured === undefined) throw beingMeasured(name);
      const usedBytes = measured.newest?.usedBytes ?? 0n;
      if (usedBytes > declaredBytes) {
        const metadata = { volume: name, used_bytes: String(usedBytes), declared_bytes: String(declaredBytes) };
        throw fail("VOLUME_TOO_SMALL", `The volume ${name} holds ${usedBytes} bytes`, { metadata });
      }
      const change = (description: Volume): void => {
        description.declaredBytes = declaredBytes;
      };
      return { volume: await describe(name, etag, change, context) };
    },

    async deleteVolume({ name, confirmName, etag, validateOnly }, context) {
      const { fileCount, usedBytes } = await (async () => {
        // Open until it is gone, so that what was looked at is what is removed.
        await using volume = await volumes.open(name);
        requireEtag(volume, etag);
        const { newest } = await readHistory(volume.own);
        await requireUnused(name, context.signal);
        if (!validateOnly) {
          requireConfirmed(confirmName, name);
          await carryOut(context, resourceOf(name), async () => {
            if (!(await volumes.remove(volume, { asRead: etag !== "" }))) throw etagMismatch(name);
          });
        }
        return { fileCount: newest?.fileCount ?? 0n, usedBytes: newest?.usedBytes ?? 0n };
      })();
      if (validateOnly) return { fileCount, usedBytes, removed: false };
      return { fileCount, usedBytes, removed: await removedWithin(volumes, waiting(usual.walkMs, context)) };
    },

    async getVolumeUsage({ name, window, maxAge, budget }, context) {
      const limits = waiting(budget === undefined ? usual.measureMs : durationMs(budget), context);
      await using volume = await volumes.open(name);
      let history = await readHistory(volume.own);
      if (isOlder(history.newest?.measureTime, maxAge)) history = (await measures.take(name, limits)) ?? history;
      const { newest, samples } = history;
      if (newest === undefined) throw beingMeasured(name);
      return {
        usage: levelled(newest, described(volume)),
        history: inWindow(samples, window, Date.now()).map(toldSample),
        measuring: measures.isTaking(name),
      };
    },

    async getVolumeHealth({ name }) {
      await using volume = await volumes.open(name);
      const { newest } = await readHistory(volume.own);
      const usage = newest === undefined ? undefined : levelled(newest, described(volume));
      return await healthOf(volume, { usage, nowMs: Date.now() });
    },

    async measureVolumePerformance({ name, bytes, blockBytes, budget }, context) {
      await using volume = await volumes.open(name);
      if (isMeasuringPerformance) {
        throw fail("VOLUME_IN_USE", "A performance is being measured already", { metadata: { volume: name } });
      }
      isMeasuringPerformance = true;
      try {
        const { performance } = usual;
        return await carryOut(context, resourceOf(name), () =>
          measurePerformance(volume, {
            bytes: bytes === 0n ? performance.bytes : Number(bytes),
            blockBytes: blockBytes || performance.blockBytes,
            ...budgeted(budget, performance.budgetMs, context),
          }),
        );
      } finally {
        isMeasuringPerformance = false;
      }
    },

    async cleanUpVolume({ name, olderThan, globs, confirmName, validateOnly, budget }, context) {
      await using volume = await volumes.open(name);
      if (!validateOnly) requireConfirmed(confirmName, name);
      // Its proto requires it.
      const beforeMs = Date.now() - (olderThan === undefined ? 0 : durationMs(olderThan));
      const wanted = globs.map(globOf);
      const run = () =>
        sweep(volume, {
          isUnwanted: (path, { stat }) =>
            Number(stat.mtimeMs) <= beforeMs && (wanted.length === 0 || wanted.some((fits) => fits(path))),
          dryRun: validateOnly,
          ...budgeted(budget, usual.walkMs, context),
        });
      const swept = validateOnly ? await run() : await carryOut(context, resourceOf(name), run);
      const { files, bytes, examples, kept, complete } = swept;
      return { fileCount: BigInt(files), bytes, examples, keptCount: BigInt(kept), complete };
    },

    async optimiseVolume({ name, minAge, temporaryGlobs, confirmName, validateOnly, budget }, context) {
      await using volume = await volumes.open(name);
      if (!validateOnly) requireConfirmed(confirmName, name);
      const beforeMs = Date.now() - (minAge === undefined ? usual.minAgeMs : durationMs(minAge));
      const temporary = (temporaryGlobs.length === 0 ? usual.temporaryGlobs : temporaryGlobs).map(globOf);
      const run = () =>
        sweep(volume, {
          isUnwanted: (path, { stat }) =>
            stat.isFile() && Number(stat.mtimeMs) <= beforeMs && temporary.some((fits) => fits(path)),
          emptyBeforeMs: beforeMs,
          dryRun: validateOnly,
          ...budgeted(budget, usual.walkMs, context),
        });
      const swept = validateOnly ? await run() : await carryOut(context, resourceOf(name), run);
      const { files, bytes, directories, examples, kept, complete } = swept;
      const counts = { fileCount: BigInt(files), directoryCount: BigInt(directories), keptCount: BigInt(kept) };
      return { ...counts, bytes, examples, complete };
    },

    async getVolumeGrowth({ name, window }) {
      await using volume = await volumes.open(name);
      const { samples } = await readHistory(volume.own);
      const nowMs = Date.now();
      return growthOf(inWindow(samples, window || VolumeWindow.WEEK, nowMs), described(volume), nowMs);
    },

    async getVolumeReport({ name, largest, budget }, context) {
      await using volume = await volumes.open(name);
      return await reportOf(volume, { largest: largest || usual.largest, ...budgeted(budget, usual.walkMs, context) });
    },
  };
}

// ---------------------------------------------------------------- what is told of volumes

/** What is stored of a volume, which has passed `open`. */
function described({ stored }: OpenVolume): Volume {
  return stored.volume ?? create(VolumeSchema);
}

/** A volume as it is told; closes it. */
async function told(opened: OpenVolume): Promise<Volume> {
  await using volume = opened;
  const { newest } = await readHistory(volume.own);
  const description = described(volume);
  return create(VolumeSchema, {
    ...description,
    name: volume.name,
    etag: String(volume.revision),
    ...(newest && { usage: levelled(newest, description) }),
  });
}

/** A volume as it is told, with its problem where it has one; undefined where it has gone meanwhile. */
async function toldAnyway(volumes: Volumes, name: string): Promise<Volume | undefined> {
  try {
    return await told(await volumes.open(name));
  } catch (error) {
    if (isReason(error, "VOLUME_NOT_FOUND")) return undefined;
    const problem = reasonOf(error) ?? (error instanceof Error ? reasonOf(fileFailure(error)) : undefined);
    if (problem === undefined) throw error;
    return create(VolumeSchema, { name, problem: problem.reason });
  }
}

/** What of a volume the audit log speaks of. */
function resourceOf(name: string) {
  return { type: VolumeSchema.name, name };
}

// ---------------------------------------------------------------- what is demanded of requests

function newVolume({ volume }: MessageShape<typeof CreateVolumeRequestSchema>): Volume {
  const { name, type, declaredBytes, description, warningPercent, criticalPercent } = volume ?? create(VolumeSchema);
  const must = { description: "must be set" };
  const wrong = [
    ...(type === VolumeType.UNSPECIFIED ? [{ field: "volume.type", ...must }] : []),
    ...(declaredBytes === 0n ? [{ field: "volume.declared_bytes", ...must }] : []),
  ];
  if (wrong.length > 0) throw badRequest(...wrong);
  const now = timestampNow();
  const made = create(VolumeSchema, {
    name,
    type,
    declaredBytes,
    description,
    warningPercent: warningPercent || usual.warningPercent,
    criticalPercent: criticalPercent || usual.criticalPercent,
    createTime: now,
    updateTime: now,
  });
  requireThresholds(made);
  return made;
}

function requireThresholds({ warningPercent, criticalPercent }: Volume): void {
  if (warningPercent <= criticalPercent) return;
  const description = "must not be below the warning percent";
  throw badRequest({ field: "volume.critical_percent", description });
}

/** The volume of a call that created it before with this id. Fails where there is one that was created otherwise. */
async function createdBefore(
  volumes: Volumes,
  name: string,
  { requestId, requestDigest }: { readonly requestId: string; readonly requestDigest: Uint8Array },
): Promise<Volume | undefined> {
  let volume: OpenVolume;
  try {
    volume = await volumes.open(name);
  } catch (error) {
    if (isReason(error, "VOLUME_NOT_FOUND")) return undefined;
    throw error;
  }
  const { stored } = volume;
  const found = await told(volume);
  if (requestId === "" || stored.requestId !== requestId) throw alreadyExists(name);
  if (Buffer.compare(stored.requestDigest, requestDigest) === 0) return found;
  const fields = [{ field: "request_id", description: "was used for another request" }];
  throw fail("REQUEST_ID_REUSED", "The request id was used for another request", { fields });
}

function alreadyExists(name: string): Error {
  return fail("VOLUME_ALREADY_EXISTS", `There is a volume ${name} already`, {
    metadata: { volume: name },
    resource: { type: VolumeSchema.typeName, name },
  });
}

function requireEtag({ name, revision }: OpenVolume, etag: string): void {
  if (etag !== "" && etag !== String(revision)) throw etagMismatch(name);
}

function etagMismatch(name: string): Error {
  const message = `The volume ${name} has been changed since it was read`;
  return fail("ETAG_MISMATCH", message, { metadata: { volume: name } });
}

// ---------------------------------------------------------------- how long things may take

/** So long at most, and never so long that the call could not answer. */
function waiting(wantedMs: number, context: HandlerContext) {
  const leftMs = context.timeoutMs();
  const mostMs = leftMs === undefined ? usual.walkMs : leftMs - answerMs;
  return { waitMs: Math.max(0, Math.min(wantedMs, mostMs)), signal: context.signal };
}

function budgeted(budget: Duration | undefined, usualMs: number, context: HandlerContext) {
  const { waitMs, signal } = waiting(budget === undefined ? usualMs : durationMs(budget), context);
  return { budgetMs: waitMs, signal };
}

/** Whether all that is left of deleted volumes could be removed in that time. What could not is removed later. */
async function removedWithin(
  volumes: Volumes,
  { waitMs, signal }: { readonly waitMs: number; readonly signal: AbortSignal },
): Promise<boolean> {
  try {
    await volumes.removeRemains({ signal: AbortSignal.any([signal, AbortSignal.timeout(waitMs)]) });
    return true;
  } catch {
    // The volume is gone whatever became of its remains, and that is what was asked for.
    return false;
  }
}

function isOlder(time: VolumeTime, maxAge: Duration | undefined): boolean {
  if (time === undefined) return true;
  return maxAge !== undefined && Date.now() - timestampMs(time) > durationMs(maxAge);
}

type VolumeTime = Parameters<typeof timestampMs>[0] | undefined;

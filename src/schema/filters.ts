import type { Timestamp } from "@bufbuild/protobuf/wkt";
import type { Document } from "bson";

/** What is stored is in the years 1 to 9999. A filter may name any time; beyond these it means the first or the last one. */
const [firstMs, lastMs] = [-62_135_596_800_000, 253_402_300_799_999];

/** Stored times are whole milliseconds: before or from a time means before or from the next one of these. */
export function dateAtOrAfter({ seconds, nanos }: Timestamp): Date {
  return storable(Number(seconds) * 1000 + Math.ceil(nanos / 1_000_000));
}

/** At or before a time means at or before this one. */
export function dateAtOrBefore({ seconds, nanos }: Timestamp): Date {
  return storable(Number(seconds) * 1000 + Math.floor(nanos / 1_000_000));
}

/** So many milliseconds before a time, or the first time that there is. */
export function dateBefore(time: Date, ms: number): Date {
  return storable(time.getTime() - ms);
}

/** The time, or the first or the last one that messages and documents hold. */
export function storable(ms: number): Date {
  return new Date(Math.min(Math.max(ms, firstMs), lastMs));
}

/** A filter for times from one, included, and before another, excluded; undefined where neither is set. */
export function timeRange(from: Timestamp | undefined, before: Timestamp | undefined): Document | undefined {
  if (from === undefined && before === undefined) return undefined;
  return {
    ...(from !== undefined && { $gte: dateAtOrAfter(from) }),
    ...(before !== undefined && { $lt: dateAtOrAfter(before) }),
  };
}

/** A filter for text that starts with or contains another, taken literally. The first can use an index. */
export function textPart(text: string, place: "start" | "anywhere"): Document {
  const literal = text.replaceAll(/[\\^$.|?*+()[\]{}]/g, String.raw`\$&`);
  return { $regex: (place === "start" ? "^" : "") + literal };
}

import type { Timestamp } from "@bufbuild/protobuf/wkt";
import type { Document } from "bson";

/** Stored times are whole milliseconds: before or from a time means before or from the next one of these. */
export function dateAtOrAfter({ seconds, nanos }: Timestamp): Date {
  return new Date(Number(seconds) * 1000 + Math.ceil(nanos / 1_000_000));
}

/** At or before a time means at or before this one. */
export function dateAtOrBefore({ seconds, nanos }: Timestamp): Date {
  return new Date(Number(seconds) * 1000 + Math.floor(nanos / 1_000_000));
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

import type { DescEnum } from "@bufbuild/protobuf";
import { durationMs, type Duration, type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt";
import { InvalidArgumentError } from "commander";

/** What is shown where there is nothing to show. */
export const nothing = "-";

/** 1234567 → `1,234,567`. */
export function count(value: bigint | number): string {
  return value.toLocaleString("en-US");
}

/** `1 file`, `2 files`. */
export function counted(value: bigint | number, one: string, more = `${one}s`): string {
  return `${count(value)} ${Number(value) === 1 ? one : more}`;
}

const binary = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] as const;

/** 1536 → `1.5 KiB`. */
export function bytes(value: bigint | number): string {
  let amount = Number(value);
  let step = 0;
  // What would be rounded up to 1024 is shown as 1 of the next.
  while (Math.abs(amount) >= (step === 0 ? 1024 : 1023.95) && step < binary.length - 1) {
    amount /= 1024;
    step += 1;
  }
  return `${step === 0 ? String(Math.round(amount)) : amount.toFixed(1)} ${binary[step]}`;
}

const spans = [
  ["d", 86_400_000],
  ["h", 3_600_000],
  ["min", 60_000],
  ["s", 1000],
] as const;

/** 93_000 → `1 min 33 s`; two units at most. */
export function span(milliseconds: number): string {
  if (milliseconds <= 0) return "0 s";
  if (milliseconds < 1) return `${milliseconds.toFixed(2)} ms`;
  // What would be rounded up to the next unit, or the next digit, is shown as that.
  if (milliseconds < 999.5) return `${milliseconds.toFixed(milliseconds < 9.95 ? 1 : 0)} ms`;
  if (milliseconds < 9950) return `${(milliseconds / 1000).toFixed(1)} s`;
  let left = Math.round(milliseconds / 1000) * 1000;
  const parts: string[] = [];
  for (const [unit, length] of spans) {
    const whole = Math.floor(left / length);
    left -= whole * length;
    if (whole > 0) parts.push(`${whole} ${unit}`);
    else if (parts.length > 0) break;
    if (parts.length === 2) break;
  }
  return parts.join(" ");
}

/** How long something takes, as the contracts say it. */
export function duration(value: Duration | undefined): string {
  return value === undefined ? nothing : span(durationMs(value));
}

/** A moment in the time zone of who reads it. */
export function time(value: Timestamp | undefined): string {
  if (value === undefined) return nothing;
  const date = timestampDate(value);
  const two = (part: number) => String(part).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${clock(value)}`;
}

/** The time of day of a moment. */
export function clock(value: Timestamp | undefined): string {
  if (value === undefined) return nothing;
  const date = timestampDate(value);
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map((part) => String(part).padStart(2, "0")).join(":");
}

/** How long ago a moment was. */
export function age(value: Timestamp | undefined): string {
  if (value === undefined) return "never";
  const ms = Date.now() - timestampDate(value).getTime();
  if (ms < 1000) return "just now";
  return ms < 10_000 ? `${Math.floor(ms / 1000)} s ago` : `${span(ms).split(" ").slice(0, 2).join(" ")} ago`;
}

/** How long something took; nothing while it has not ended. */
export function between(from: Timestamp | undefined, to: Timestamp | undefined): string {
  if (from === undefined || to === undefined) return nothing;
  return span(timestampDate(to).getTime() - timestampDate(from).getTime());
}

/** The name of an enum's value as people read it: `data loss`. A newer service may send values that are not known here. */
export function nameOf(desc: DescEnum, value: number): string {
  const { localName = `${desc.name} ${value}` } = desc.value[value] ?? {};
  return value === 0 ? "" : localName.replaceAll("_", " ").toLowerCase();
}

const lengths: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  min: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** Reads `500ms`, `30s`, `5m`, `2h` or `7d`; a number alone means seconds. For options. */
export function readSpan(text: string): number {
  const [, amount, unit = "s"] = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|min|h|d)?$/.exec(text) ?? [];
  const length = lengths[unit];
  if (amount === undefined || length === undefined) {
    throw new InvalidArgumentError("A time is a number and a unit: 500ms, 30s, 5m, 2h or 7d.");
  }
  return Number(amount) * length;
}

/** The same for what is told in whole seconds: rounded, half a second would be none. */
export function readSeconds(text: string): number {
  const seconds = Math.round(readSpan(text)) / 1000;
  if (!Number.isInteger(seconds)) throw new InvalidArgumentError("It is told in whole seconds: 30s, 5m, 2h or 7d.");
  return seconds;
}

/** Reads `4096`, `512KiB` or `10GiB`. For options. */
export function readSize(text: string): bigint {
  const [, amount = "", unit = "B"] = /^(\d{1,18})(B|KiB|MiB|GiB|TiB|PiB)?$/.exec(text) ?? [];
  const step = binary.findIndex((name) => name === unit);
  if (amount === "" || step === -1)
    throw new InvalidArgumentError("A size is a number and a unit: 4096, 512KiB, 10GiB.");
  return BigInt(amount) * 1024n ** BigInt(step);
}

/** Reads a whole number within a range. For options. */
export function readNumber(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^-?\d{1,16}$/.test(text) || value < least || value > most) {
      throw new InvalidArgumentError(`It must be a whole number from ${least} to ${most}.`);
    }
    return value;
  };
}

/** Reads a time in ISO 8601, or how long ago it was: `2h`. For options. */
export function readMoment(text: string): Date {
  if (/^\d+(\.\d+)?(ms|s|m|min|h|d)$/.test(text)) return new Date(Date.now() - readSpan(text));
  const [, day = "", hour = ""] = /^(\d{4}-\d{2}-\d{2})([T ]\S+)?$/.exec(text) ?? [];
  // A day without an hour is one where whoever asks lives, as the times are that are shown; JavaScript would take it for one of UTC.
  const date = new Date(`${day}${hour || "T00:00"}`);
  if (!isDay(day) || Number.isNaN(date.getTime())) {
    throw new InvalidArgumentError(
      "A time is written as 2026-11-28, as 2026-11-28T20:15:00Z, or as how long ago it was: 2h.",
    );
  }
  return date;
}

/** Whether the calendar has it: JavaScript takes the 31st of February for the 3rd of March. */
function isDay(text: string): boolean {
  const date = new Date(`${text}T00:00Z`);
  return !Number.isNaN(date.getTime()) && date.toISOString().startsWith(text);
}

/** Collects an option that may be given many times. */
export function many(value: string, all: readonly string[] | undefined): readonly string[] {
  return [...(all ?? []), value];
}

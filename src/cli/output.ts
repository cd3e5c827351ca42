import { once } from "node:events";
import type { WriteStream } from "node:tty";
import { styleText } from "node:util";

import { type DescMessage, type MessageShape, toJson } from "@bufbuild/protobuf";

import { cut, pad, safe, safeJson, widthOf } from "./text.ts";

/** How a text is painted on a terminal. */
export type Style = "bold" | "dim" | "red" | "green" | "yellow" | "cyan";

/** One column of a table. */
export interface Column<T> {
  readonly title: string;
  /** The text of a row; it is made safe here. */
  readonly of: (row: T) => string;
  readonly align?: "left" | "right";
  readonly style?: (row: T) => Style | undefined;
  /**
   * Whether it may be cut where the terminal is too narrow. Identifiers are not, as a part of one is of no use: a long one pushes the rest of its
   * row aside.
   */
  readonly mayBeCut?: boolean;
}

/** A name with its value; undefined where there is nothing to say. */
export type Fact = readonly [name: string, value: string, style?: Style | undefined] | undefined;

/** Where results and remarks go. Results go to stdout, whatever else there is to say to stderr. */
export interface Output {
  /** Whether results are JSON, one object a line. */
  readonly json: boolean;
  /** Columns of the terminal that shows results; undefined where there is none. */
  readonly columns: number | undefined;
  /** Writes a line of results. Waits where the reader is slow. */
  line(text?: string): Promise<void>;
  /** Writes an object as a line of JSON. */
  object(value: object): Promise<void>;
  /** Writes a message as a line of JSON. */
  message<D extends DescMessage>(schema: D, message: MessageShape<D>): Promise<void>;
  table<T>(rows: readonly T[], columns: readonly Column<T>[]): Promise<void>;
  /** Writes names with their values, one a line. */
  facts(facts: readonly Fact[]): Promise<void>;
  /** Says something that is no result; it is made safe here. */
  note(text: string): void;
  /** Paints a result. The text must be safe. */
  paint(text: string, style: Style | undefined): string;
}

/** How messages are written: with all fields that are not presence-tracked, so that a script finds a count of 0 too. */
export function jsonOf<D extends DescMessage>(schema: D, message: MessageShape<D>): object {
  return toJson(schema, message, { alwaysEmitImplicit: true }) as object; // a message is an object, but for wrappers
}

export function output(
  { stdout, stderr }: { readonly stdout: WriteStream; readonly stderr: WriteStream },
  { json, color }: { readonly json: boolean; readonly color: boolean },
): Output {
  const columns = stdout.isTTY ? stdout.columns || 80 : undefined;
  const paint = (text: string, style: Style | undefined) =>
    style === undefined || !color ? text : styleText(style, text, { stream: stdout });
  const line = async (text = "") => {
    if (!stdout.write(`${text}\n`) && !stdout.destroyed) await once(stdout, "drain");
  };
  const object = async (value: object) => line(safeJson(JSON.stringify(value)));
  return {
    json,
    columns,
    line,
    object,
    message: async (schema, message) => object(jsonOf(schema, message)),
    async table(rows, shown) {
      for (const text of tableLines(rows, shown, { columns, paint })) await line(text);
    },
    async facts(facts) {
      const entries = facts.filter((fact) => fact !== undefined);
      const width = Math.max(...entries.map(([name]) => widthOf(name)));
      for (const [name, value, style] of entries)
        await line(`${paint(pad(name, width), "dim")}  ${paint(safe(value), style)}`);
    },
    note: (text) => void stderr.write(`${safe(text)}\n`),
    paint,
  };
}

/** The lines of a table, with a line of titles. */
export function tableLines<T>(
  rows: readonly T[],
  shown: readonly Column<T>[],
  { columns, paint }: { readonly columns: number | undefined; readonly paint: Output["paint"] },
): readonly string[] {
  const cells = rows.map((row) => shown.map(({ of }) => safe(of(row))));
  const widths = shown.map(({ title }, index) =>
    Math.max(widthOf(title), ...cells.map((texts) => widthOf(texts[index] ?? ""))),
  );
  if (columns !== undefined) narrow(widths, shown, columns);
  const join = (texts: readonly string[], style: (index: number) => Style | undefined) =>
    shown
      .map(({ align = "left", mayBeCut = false }, index) => {
        const width = widths[index] ?? 0;
        const whole = texts[index] ?? "";
        const text = mayBeCut ? cut(whole, width) : whole;
        // Spaces at the end of a line would wrap on a narrow terminal.
        const isLast = index === shown.length - 1 && align === "left";
        return paint(isLast ? text : pad(text, width, align), style(index));
      })
      .join("  ")
      .trimEnd();
  return [
    join(
      shown.map(({ title }) => title),
      () => "dim",
    ),
    ...rows.map((row, index) => join(cells[index] ?? [], (column) => shown[column]?.style?.(row))),
  ];
}

/** Takes from the columns what is too much, the widest first, and from those that may be cut before all others. */
function narrow<T>(widths: number[], shown: readonly Column<T>[], columns: number): void {
  const least = shown.map(({ title }) => Math.max(8, widthOf(title)));
  for (const mayBeCut of [true, false]) {
    for (;;) {
      const excess = widths.reduce((sum, width) => sum + width + 2, -2) - columns;
      const [widest] = [...widths.keys()]
        .filter((index) => (shown[index]?.mayBeCut ?? false) === mayBeCut && (widths[index] ?? 0) > (least[index] ?? 0))
        .toSorted((one, other) => (widths[other] ?? 0) - (widths[one] ?? 0));
      if (excess <= 0) return;
      if (widest === undefined) break;
      widths[widest] = Math.max(least[widest] ?? 0, (widths[widest] ?? 0) - excess);
    }
  }
}

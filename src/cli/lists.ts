import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import { type Command, Option } from "commander";

import type { Column } from "./output.ts";
import type { Session } from "./session.ts";
import { count, readNumber } from "./units.ts";

/** Most items that the service gives at once. */
const mostInPage = 1000;
const usualLimit = 100;

/** Adds the option of all lists. */
export function withLimit(command: Command): Command {
  return command.addOption(
    new Option("--limit <number>", "show at most so many; 0 shows all")
      .argParser(readNumber(0, 1_000_000_000))
      .default(usualLimit),
  );
}

/** What a List rpc is asked for. */
export interface PageRequest {
  readonly pageSize: number;
  readonly pageToken: string;
}

/** What it gives. */
export interface Page<T> {
  readonly items: readonly T[];
  readonly nextPageToken: string;
}

/** Shows what a List rpc gives, page after page: as a table, or one object a line. */
export async function showList<D extends DescMessage>(
  { output }: Session,
  {
    schema,
    limit,
    columns,
    page,
    none,
  }: {
    readonly schema: D;
    readonly limit: number;
    readonly columns: readonly Column<MessageShape<D>>[];
    readonly page: (request: PageRequest) => Promise<Page<MessageShape<D>>>;
    /** What is said where there is nothing. */
    readonly none: string;
  },
): Promise<void> {
  const rows: MessageShape<D>[] = [];
  let shown = 0;
  let pageToken = "";
  let isMore = false;
  for (;;) {
    const left = limit === 0 ? Infinity : limit - shown;
    const { items: found, nextPageToken } = await page({ pageSize: Math.min(left, mostInPage), pageToken });
    // A page of keys may have more than were asked for.
    const items = found.slice(0, left);
    shown += items.length;
    pageToken = nextPageToken;
    isMore = pageToken !== "" || items.length < found.length;
    if (output.json) for (const item of items) await output.message(schema, item);
    else rows.push(...items);
    // A table needs all its rows for its widths; a long one is shown in parts.
    if (rows.length >= mostInPage) await output.table(rows.splice(0), columns);
    // A page may be empty though there is more.
    if (pageToken === "" || (limit > 0 && shown >= limit)) break;
  }
  if (rows.length > 0) await output.table(rows, columns);
  if (output.json) return;
  if (shown === 0) output.note(none);
  if (isMore) output.note(`These are the first ${count(shown)}; --limit 0 shows all.`);
}

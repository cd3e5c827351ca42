import { fromJson } from "@bufbuild/protobuf";
import type { Command } from "commander";

import { FilterSchema, type Highlight } from "../../../gen/lucid/search/v1/search_query_pb.ts";
import {
  CountResponseSchema,
  type SearchHit,
  SearchHitSchema,
  SearchService,
  SuggestResponseSchema,
} from "../../../gen/lucid/search/v1/search_service_pb.ts";
import { withExamples } from "../examples.ts";
import { Failure, mayPass } from "../failure.ts";
import { readJson } from "../input.ts";
import { withLimit } from "../lists.ts";
import { type Column, jsonOf, type Output } from "../output.ts";
import { mostTries, reconnection } from "../reconnection.ts";
import type { Session } from "../session.ts";
import { safe } from "../text.ts";
import { count, many } from "../units.ts";

interface Asked {
  readonly field?: readonly string[];
  readonly where?: readonly string[];
  readonly filter?: readonly string[];
  readonly deleted?: boolean;
}

/** `lucid search …`. */
export function define(search: Command, session: Session): void {
  const client = () => session.client(SearchService);

  withExamples(
    withQuery(withLimit(search.command("query")))
      .description("Search one index, or several with commas between them")
      .argument(
        "<index>",
        "names of indices: users, sessions, blocks, transactions, manifests, audit-logs, or your own",
      )
      .argument("[text]", "words to look for; empty finds all")
      .option("--order <fields>", "fields to order by, such as 'created_at desc'; the best first where there are words")
      .option("--ids", "only ids, which spares the service MongoDB")
      .action(
        async (index: string, text: string = "", options: Asked & { limit: number; order?: string; ids?: boolean }) => {
          const { limit, order: orderBy = "", ids: idsOnly = false } = options;
          const { output } = session;
          const request = {
            indices: index.split(","),
            query: await queryOf(session, text, options),
            orderBy,
            idsOnly,
            highlight: text !== "" && !output.json,
          };
          let shown = 0;
          let pageToken = "";
          for (;;) {
            const pageSize = limit === 0 ? 200 : Math.min(200, limit - shown);
            const response = await client().search({ ...request, pageSize, pageToken }, session.call());
            pageToken = response.nextPageToken;
            shown += response.hits.length;
            if (output.json) for (const hit of response.hits) await output.message(SearchHitSchema, hit);
            else if (response.hits.length > 0) await output.table(response.hits, hitColumns(output, request.highlight));
            if (pageToken === "" && !output.json) output.note(`${count(shown)} found.`);
            else if (shown === limit && !output.json) {
              const { count: all = 0n, isMinimum = false } = response.totalHits ?? {};
              output.note(
                `These are ${count(shown)} of ${isMinimum ? "more than " : ""}${count(all)}; --limit 0 shows all.`,
              );
            }
            if (pageToken === "" || (limit > 0 && shown >= limit)) break;
          }
        },
      ),
    "lucid search query users ada",
    "lucid search query sessions 'review* -second' --where status=ACTIVE --order 'created_at desc'",
    "lucid search query users,sessions ada --json | jq -r .id",
  );

  withExamples(
    withQuery(search.command("count"))
      .description("Count what a search finds, exactly")
      .argument("<index>", "names of indices, with commas between them")
      .argument("[text]", "words to look for; empty finds all")
      .action(async (index: string, text: string = "", options: Asked) => {
        const request = { indices: index.split(","), query: await queryOf(session, text, options) };
        const response = await client().count(request, session.call());
        if (session.output.json) await session.output.message(CountResponseSchema, response);
        else await session.output.line(String(response.count));
      }),
    "lucid search count users --where status=ACTIVE",
  );

  withExamples(
    search
      .command("suggest")
      .description("Complete what somebody is typing")
      .argument("<index>", "name of the index")
      .argument("<text>", "what was typed so far")
      .option("--field <field>", "only from this field; may be given many times", many)
      .action(async (index: string, text: string, { field = [] }: { field?: readonly string[] }) => {
        const response = await client().suggest({ index, text, fields: [...field] }, session.call());
        if (session.output.json) return session.output.message(SuggestResponseSchema, response);
        await session.output.table(response.suggestions, [
          { title: "TEXT", of: (suggestion) => suggestion.text, mayBeCut: true },
          { title: "FIELD", of: (suggestion) => suggestion.field },
          { title: "ID", of: ({ id }) => id },
        ]);
      }),
    "lucid search suggest users ad",
  );

  withExamples(
    withQuery(search.command("export"))
      .description("Write all that a search finds, one object of JSON a line, in no particular order")
      .argument("<index>", "name of the index")
      .argument("[text]", "words to look for; empty finds all")
      .option("--ids", "only ids, which spares the service MongoDB")
      .action(async (index: string, text: string = "", options: Asked & { ids?: boolean }) => {
        const query = await queryOf(session, text, options);
        await exportAll(session, { index, query, idsOnly: options.ids === true });
      }),
    "lucid search export sessions > sessions.ndjson",
    "lucid search export users --where status=ACTIVE --ids | wc -l",
  );
}

/** Goes on behind what has been written when the connection breaks. */
async function exportAll(
  session: Session,
  request: { readonly index: string; readonly query: Awaited<ReturnType<typeof queryOf>>; readonly idsOnly: boolean },
): Promise<void> {
  const client = session.client(SearchService);
  let cursor = "";
  const tries = reconnection();
  for (;;) {
    try {
      for await (const response of client.exportHits({ ...request, cursor }, session.stream())) {
        for (const hit of response.hits) await session.output.message(SearchHitSchema, hit);
        cursor = response.cursor;
        tries.heard();
      }
      return;
    } catch (error) {
      if (session.signal.aborted || cursor === "" || tries.failures >= mostTries || !mayPass(error)) throw error;
      if (tries.failures === 0) session.output.note("The connection broke; going on behind what is written.");
      await tries.wait(session.signal);
    }
  }
}

function withQuery(command: Command): Command {
  return command
    .option("--field <field>", "look for the words in this field only; may be given many times", many)
    .option("--where <field=value>", "only where the field is this text; may be given many times", many)
    .option("--filter <json>", "a Filter of the contracts, as JSON or @FILE; may be given many times", many)
    .option("--deleted", "find deleted documents too");
}

async function queryOf(
  session: Session,
  text: string,
  { field = [], where = [], filter = [], deleted = false }: Asked,
) {
  const given = filter.map((json) => readJson(session, json, "--filter", (value) => fromJson(FilterSchema, value)));
  const equal = where.map((condition) => {
    const [name = "", ...value] = condition.split("=");
    if (value.length === 0) throw new Failure("usage", `--where: ${condition} is not written FIELD=VALUE`);
    const term = { value: { case: "text", value: value.join("=") } } as const;
    return { field: name, condition: { case: "term", value: term } } as const;
  });
  return { text, fields: [...field], filters: [...equal, ...(await Promise.all(given))], showDeleted: deleted };
}

function hitColumns(output: Output, withHighlights: boolean): readonly Column<SearchHit>[] {
  return [
    { title: "ID", of: ({ id }) => id },
    { title: "INDEX", of: ({ index }) => index },
    ...(withHighlights
      ? [{ title: "SCORE", of: ({ score }: SearchHit) => score.toFixed(2), align: "right" } as const]
      : []),
    withHighlights
      ? {
          title: "FOUND IN",
          of: ({ highlights }) => highlights.map(highlightText).join("; "),
          mayBeCut: output.columns !== undefined,
        }
      : { title: "DOCUMENT", of: documentText, mayBeCut: output.columns !== undefined },
  ];
}

/** What was found, between marks. */
function highlightText({ field, fragments }: Highlight): string {
  const parts = fragments.flatMap((fragment) => fragment.parts);
  return `${field}: ${parts.map(({ text, matched }) => (matched ? `[${text}]` : text)).join("")}`;
}

/** The first fields of a document. */
function documentText(hit: SearchHit): string {
  const { user, session, block, transaction, manifest, auditRecord, fields } = jsonOf(SearchHitSchema, hit) as Record<
    string,
    object | undefined
  >;
  const document = user ?? session ?? block ?? transaction ?? manifest ?? auditRecord ?? fields ?? {};
  const shown = Object.entries(document).filter(([, value]) => value !== "" && typeof value !== "object");
  return safe(
    shown
      .slice(0, 8)
      .map(([name, value]) => `${name}=${String(value)}`)
      .join(" "),
  );
}

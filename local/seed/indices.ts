import type { Document } from "bson";

import { Complaint } from "../project.ts";
import type { Collection } from "./documents.ts";

/** A search index that holds some of a collection's documents. */
export interface Index {
  readonly alias: string;
  /** Mapping of its fields beside the id and what every entity carries. */
  readonly fields: Readonly<Record<string, object>>;
  readonly collection: Collection;
  readonly count: number;
  readonly idField: string;
}

const keyword = { type: "keyword" } as const;
const date = { type: "date" } as const;
const long = { type: "long" } as const;
const text = { type: "text", fields: { keyword } } as const;

/** Alias after the prefix → the collection, the field that is the id, its share of the documents, and its mapping beside ids and times. */
const tables = {
  users: [
    "users",
    "user_id",
    0.25,
    {
      email: keyword,
      username: text,
      tron_address: keyword,
      role: keyword,
      status: keyword,
      profile: { properties: { display_name: text, bio: text, location: keyword } },
    },
  ],
  sessions: [
    "sessions",
    "session_id",
    0.3,
    {
      user_id: keyword,
      session_name: text,
      description: text,
      status: keyword,
      recorded_size_bytes: long,
      total_chunks: long,
      started_at: date,
      ended_at: date,
    },
  ],
  blocks: [
    "blocks",
    "block_id",
    0.05,
    {
      height: long,
      previous_hash: keyword,
      merkle_root: keyword,
      status: keyword,
      timestamp: date,
      transaction_count: long,
      transactions: keyword,
    },
  ],
  transactions: [
    "transactions",
    "transaction_id",
    0.15,
    {
      transaction_type: keyword,
      status: keyword,
      block_id: keyword,
      block_height: long,
      from_address: keyword,
      to_address: keyword,
      submitted_at: date,
    },
  ],
  manifests: [
    "manifests",
    "manifest_id",
    0.1,
    { session_id: keyword, merkle_root: keyword, chunk_count: long, total_size: long, validation_status: keyword },
  ],
  "audit-logs": [
    "audit_logs",
    "audit_id",
    0.15,
    {
      timestamp: date,
      rpc: keyword,
      action: keyword,
      outcome: keyword,
      actor: { properties: { id: keyword, role: keyword, source_address: keyword } },
    },
  ],
} as const;

/** Gives the indices that hold `total` documents together; fewer where there are not as many in the collections. */
export function indices(all: readonly Collection[], total: number, prefix: string): readonly Index[] {
  return Object.entries(tables).flatMap(([name, [collectionName, idField, share, fields]]) => {
    const collection = all.find((candidate) => candidate.name === collectionName);
    if (collection === undefined) return [];
    const count = Math.min(collection.count, Math.round(total * share));
    return [{ alias: `${prefix}${name}`, fields, collection, idField, count }];
  });
}

/** A small client of search over its plain HTTP, which both families understand alike. */
export class SearchClient {
  readonly #url: string;
  readonly #headers: Readonly<Record<string, string>>;

  constructor(uri: string) {
    const url = new URL(uri);
    // fetch refuses addresses that hold a password.
    const credentials = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`;
    this.#headers =
      credentials === ":" ? {} : { authorization: `Basic ${Buffer.from(credentials).toString("base64")}` };
    url.username = "";
    url.password = "";
    this.#url = url.href.replace(/\/$/, "");
  }

  /** Makes the index behind the alias where neither is there. */
  async ensureIndex({ alias, fields, idField }: Index): Promise<void> {
    const there = await this.#send("HEAD", `/_alias/${alias}`);
    const taken = there.status === 404 ? await this.#send("HEAD", `/${alias}`) : there;
    if (taken.status !== 404) return;
    const properties = {
      [idField]: keyword,
      ...fields,
      created_at: date,
      updated_at: date,
      created_by: keyword,
      revision: long,
    };
    const body = {
      settings: { number_of_shards: 1, number_of_replicas: 0 },
      mappings: { dynamic: false, properties },
      aliases: { [alias]: {} },
    };
    await this.#expectOk(await this.#send("PUT", `/${alias}-000001`, JSON.stringify(body), "application/json"));
  }

  /** Writes documents of the index, from `first` up to `end`. */
  async write({ alias, collection, idField }: Index, first: number, end: number): Promise<void> {
    const lines: string[] = [];
    for (let index = first; index < end; index++) {
      const { _id, ...fields } = collection.document(index);
      lines.push(JSON.stringify({ index: { _index: alias, _id: fields[idField] } }), JSON.stringify(plain(fields)));
    }
    await this.#bulk(lines);
  }

  async remove({ alias, collection, idField }: Index, first: number, end: number): Promise<void> {
    const lines: string[] = [];
    for (let index = first; index < end; index++) {
      lines.push(JSON.stringify({ delete: { _index: alias, _id: collection.document(index)[idField] } }));
    }
    await this.#bulk(lines);
  }

  /** Makes what was written visible to searches. */
  async refresh({ alias }: Index): Promise<void> {
    await this.#expectOk(await this.#send("POST", `/${alias}/_refresh`));
  }

  async #bulk(lines: readonly string[]): Promise<void> {
    if (lines.length === 0) return;
    const answer = await this.#send("POST", "/_bulk", `${lines.join("\n")}\n`, "application/x-ndjson");
    const { items } = JSON.parse(await this.#expectOk(answer)) as {
      items: Record<string, { status: number; error?: unknown }>[];
    };
    for (const item of items) {
      const failed = Object.values(item).find(({ status }) => status >= 300 && status !== 404);
      if (failed !== undefined) throw new Complaint(`Search refuses a document: ${JSON.stringify(failed.error)}`);
    }
  }

  async #send(method: string, path: string, body?: string, type?: string): Promise<Response> {
    return fetch(`${this.#url}${path}`, {
      method,
      headers: { ...this.#headers, ...(type !== undefined && { "content-type": type }) },
      ...(body !== undefined && { body }),
      signal: AbortSignal.timeout(60_000),
    });
  }

  async #expectOk(answer: Response): Promise<string> {
    const reply = await answer.text();
    if (!answer.ok) throw new Complaint(`Search answers ${answer.status}: ${reply.slice(0, 500)}`);
    return reply;
  }
}

/** Long and Binary become what JSON knows; raw bytes are of no use in a search. */
function plain(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null || value instanceof Date) return value;
  // bson's own types name themselves.
  const document = value as Document;
  if (document["_bsontype"] === "Long") return Number(document);
  return Object.fromEntries(
    Object.entries(document).flatMap(([name, inner]) =>
      (inner as Document | null)?.["_bsontype"] === "Binary" ? [] : [[name, plain(inner)]],
    ),
  );
}

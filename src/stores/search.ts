import { Client, type ClientOptions, errors, type Transport, UndiciConnection } from "@elastic/elasticsearch";

import type { Config } from "../config.ts";
import type { LatencyRecorder } from "./latency.ts";

/** What the server is. */
export interface SearchProduct {
  readonly name: "elasticsearch" | "opensearch";
  readonly version: string;
}

/** How long a request may take and who ends it. */
export interface SearchRequest {
  readonly signal: AbortSignal;
  /** Limit in milliseconds; 30 s where not given. */
  readonly requestTimeout?: number;
}

/** Where the two families differ in what the service needs. Everything else they do alike. */
export interface SearchDialect {
  readonly product: SearchProduct;
  /** Sort that puts all hits of a point in time into one order, for paging through them. */
  readonly tieBreak: Readonly<Record<string, { readonly order: "asc"; readonly unmapped_type?: "keyword" }>>;
  /** What the limit is called of the characters of a text that are looked through for highlights; servers refuse longer texts without. */
  readonly highlightLimit: "max_analyzed_offset" | "max_analyzer_offset";
  /** Type of a field that holds an object of any form. */
  readonly freeForm: "flattened" | "flat_object";
  /**
   * Freezes what `indices` hold now; the id goes into a search's `pit`. `keepAlive` as in `2m`. With a `preference`, of those
   * copies of shards that a search with the same one goes to.
   */
  openPointInTime(
    indices: readonly string[],
    keepAlive: string,
    request: SearchRequest & { readonly preference?: string | undefined },
  ): Promise<string>;
  /** Releases it; it is no error where it has already expired. */
  closePointInTime(id: string, request: SearchRequest): Promise<void>;
}

/** The shared client of Elasticsearch or OpenSearch. Opening it does not wait. */
export interface SearchStore extends AsyncDisposable {
  readonly client: Client;
  /** Asks the server what it is; remembers the answer. */
  product(signal: AbortSignal): Promise<SearchProduct>;
  /** What is said differently to this server; asks once which one it is. */
  dialect(signal: AbortSignal): Promise<SearchDialect>;
}

const connectTimeoutMs = 2000;

/** Opens the client. Nothing is retried here: whoever calls knows whether a call may be repeated. */
export function openSearch(
  config: Pick<Config["search"], "uri">,
  options: { latency?: LatencyRecorder } = {},
): SearchStore {
  const client = new Client({
    node: config.uri,
    Connection: PlainConnection,
    requestTimeout: 30_000,
    maxRetries: 0,
    // Undici takes the time to connect from the options of TLS where there are some, else from its own, which the client's
    // types leave out. Its default is 10 s.
    ...(config.uri.startsWith("https:") && { tls: { timeout: connectTimeoutMs } }),
    agent: { connections: 64, connect: { timeout: connectTimeoutMs } } as NonNullable<ClientOptions["agent"]>,
  });
  if (options.latency !== undefined) measure(client, options.latency);
  let known: SearchProduct | undefined;
  const product = async (signal: AbortSignal): Promise<SearchProduct> =>
    (known ??= await askProduct(client, { signal }));
  return {
    client,
    product,
    dialect: async (signal) => dialectOf(client, await product(signal)),
    [Symbol.asyncDispose]: () => client.close(),
  };
}

type Arguments = Parameters<UndiciConnection["request"]>;

/**
 * Makes one client serve both families. It sends media types with `compatible-with`, which OpenSearch and Elasticsearch 8 refuse
 * (400 `media_type_header_exception`), and refuses servers that do not name themselves Elasticsearch.
 */
class PlainConnection extends UndiciConnection {
  // The client overloads `request` by what it returns; both forms come out of the one implementation below it.
  override async request(...[params, options]: Arguments): Promise<never> {
    const headers = { ...params.headers };
    for (const name of ["content-type", "accept"]) {
      const value = headers[name];
      if (typeof value === "string") headers[name] = plainType(value);
    }
    // A request that takes too long is ended by an `abort` event on the signal it was given: on the caller's own, all that the
    // caller still does would hear it.
    const signal = options.signal === undefined ? {} : { signal: AbortSignal.any([options.signal]) };
    try {
      const response = await super.request({ ...params, headers }, { ...options, ...signal });
      response.headers["x-elastic-product"] = "Elasticsearch";
      return response as never;
    } catch (error) {
      // The client says that a request was aborted, but not why: cancelled or too late.
      options.signal?.throwIfAborted();
      throw error;
    }
  }
}

function plainType(value: string): string {
  return value.replaceAll("application/vnd.elasticsearch+", "application/").replaceAll(/;\s*compatible-with=\d+/g, "");
}

/** Records how long requests take, by the name of their API; until the head of the reply where that is read as a stream. */
function measure({ transport }: Client, latency: LatencyRecorder): void {
  const request = transport.request.bind(transport) as (...args: Parameters<Transport["request"]>) => Promise<unknown>;
  const timed = (...[params, options]: Parameters<Transport["request"]>): Promise<unknown> =>
    latency.time("search", params.meta?.name ?? "request", () => request(params, options), isFailure);
  // Every API of the client calls it. It is overloaded by what it returns, which only passes through here.
  transport.request = timed as Transport["request"];
}

/** Not found, conflict and bad request are answers. */
function isFailure(error: unknown): boolean {
  if (error instanceof errors.RequestAbortedError) return false;
  return !(error instanceof errors.ResponseError) || (error.statusCode ?? 500) >= 500 || error.statusCode === 429;
}

/** Asks the server what it is. Whoever waits for that says how long: nobody asks once more for a call that has failed by it. */
export async function askProduct(client: Client, options: SearchRequest): Promise<SearchProduct> {
  try {
    const { version } = await client.info({}, options);
    // OpenSearch says which distribution it is; Elasticsearch has no such field.
    const { distribution } = version as { distribution?: string };
    return { name: distribution === "opensearch" ? "opensearch" : "elasticsearch", version: version.number };
  } catch (error) {
    if (!(error instanceof errors.ResponseError) || error.statusCode !== 405) throw error;
    // A server that holds only its core modules answers no `GET /`.
    const { nodes } = await client.nodes.info({ filter_path: "nodes.*.version" }, options);
    const version = Object.values(nodes)[0]?.version ?? "";
    return { name: "elasticsearch", version };
  }
}

function dialectOf(client: Client, product: SearchProduct): SearchDialect {
  return product.name === "elasticsearch" ? elasticsearch(client, product) : opensearch(client, product);
}

function elasticsearch(client: Client, product: SearchProduct): SearchDialect {
  return {
    product,
    tieBreak: { _shard_doc: { order: "asc" } },
    highlightLimit: "max_analyzed_offset",
    freeForm: "flattened",
    async openPointInTime(indices, keepAlive, { preference, ...request }) {
      const open = { index: [...indices], keep_alive: keepAlive, ...(preference !== undefined && { preference }) };
      const { id } = await client.openPointInTime(open, request);
      return id;
    },
    async closePointInTime(id, request) {
      await client.closePointInTime({ id }, { ...request, ignore: [404] });
    },
  };
}

function opensearch(client: Client, product: SearchProduct): SearchDialect {
  const path = "/_search/point_in_time";
  return {
    product,
    tieBreak: knowsShardDoc(product.version)
      ? { _shard_doc: { order: "asc" } }
      : // An index that never had a document has not even this field.
        { _id: { order: "asc", unmapped_type: "keyword" } },
    highlightLimit: "max_analyzer_offset",
    freeForm: "flat_object",
    async openPointInTime(indices, keepAlive, { preference, ...request }) {
      const names = indices.map(encodeURIComponent).join(",");
      const querystring = { keep_alive: keepAlive, ...(preference !== undefined && { preference }) };
      const open = { method: "POST", path: `/${names}${path}`, querystring };
      const { pit_id: id } = await client.transport.request<{ pit_id: string }>(
        { ...open, meta: { name: "open_point_in_time" } },
        request,
      );
      return id;
    },
    async closePointInTime(id, request) {
      const close = { method: "DELETE", path, body: { pit_id: [id] }, meta: { name: "close_point_in_time" } };
      await client.transport.request(close, { ...request, ignore: [404] });
    },
  };
}

/** OpenSearch sorts by `_shard_doc` since 3.3. */
function knowsShardDoc(version: string): boolean {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return major > 3 || (major === 3 && minor >= 3);
}

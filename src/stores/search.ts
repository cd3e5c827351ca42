import { Client, errors, UndiciConnection } from "@elastic/elasticsearch";

import type { Config } from "../config.ts";

/** What the server is. */
export interface SearchProduct {
  readonly name: "elasticsearch" | "opensearch";
  readonly version: string;
}

/** The shared client of Elasticsearch or OpenSearch. Opening it does not wait. */
export interface SearchStore extends AsyncDisposable {
  readonly client: Client;
  /** Asks the server what it is; remembers the answer. */
  product(signal: AbortSignal): Promise<SearchProduct>;
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
    const response = await super.request({ ...params, headers }, options);
    response.headers["x-elastic-product"] = "Elasticsearch";
    return response as never;
  }
}

function plainType(value: string): string {
  return value.replaceAll("application/vnd.elasticsearch+", "application/").replaceAll(/;\s*compatible-with=\d+/g, "");
}

/** Opens the client. Nothing is retried here: whoever calls knows whether a call may be repeated. */
export function openSearch(config: Config["search"]): SearchStore {
  const client = new Client({
    node: config.uri,
    Connection: PlainConnection,
    requestTimeout: 30_000,
    maxRetries: 0,
  });
  let known: SearchProduct | undefined;
  return {
    client,
    async product(signal) {
      known ??= await ask(client, signal);
      return known;
    },
    [Symbol.asyncDispose]: () => client.close(),
  };
}

async function ask(client: Client, signal: AbortSignal): Promise<SearchProduct> {
  const options = { signal, requestTimeout: 2000 };
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

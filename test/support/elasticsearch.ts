import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

import { installElasticsearch, startElasticsearch } from "../../local/elasticsearch.ts";
import { Complaint, say } from "../../local/project.ts";
import type { Server } from "../../local/server.ts";

/** The Elasticsearch of this run. */
export interface Elasticsearch {
  /** Where it answers; empty where there is none. */
  readonly uri: string;
  /** Why there is none. */
  readonly missing?: string;
}

/** Tells suites where Elasticsearch is. Disposing it stops what it has started. */
export interface Offer extends AsyncDisposable {
  /** Answers with an `Elasticsearch`. The first request starts it. */
  readonly url: string;
}

/**
 * Offers Elasticsearch, beside the OpenSearch that all tests share, to the suites that run on both families. It takes ten
 * seconds and 700 MB, so it starts when one of them asks, in the process that outlives them all.
 */
export async function offerElasticsearch(): Promise<Offer> {
  let server: Server | undefined;
  const start = async (): Promise<Elasticsearch> => {
    const uri = process.env["LUCID_TEST_ELASTICSEARCH_URI"] ?? "";
    if (uri !== "") return { uri };
    try {
      await installElasticsearch();
    } catch (error) {
      if (!(error instanceof Complaint)) throw error;
      say(`Skipped: the suites on Elasticsearch. ${error.message}`);
      return { uri: "", missing: error.message };
    }
    server = await startElasticsearch();
    return { uri: server.uri };
  };
  let found: Promise<Elasticsearch> | undefined;
  const listener = createServer((_, response) => {
    found ??= start();
    found.then(
      (told) => response.end(JSON.stringify(told)),
      (error: unknown) => response.writeHead(500).end(String(error)),
    );
  });
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address() as AddressInfo; // it listens on a port
  return {
    url: `http://127.0.0.1:${port}`,
    async [Symbol.asyncDispose]() {
      listener.close();
      listener.closeAllConnections();
      await found?.catch(() => undefined); // whoever asked was told
      await server?.[Symbol.asyncDispose]();
    },
  };
}

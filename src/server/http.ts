import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

import { connectNodeAdapter } from "@connectrpc/connect-node";

import type { Listener, ListenerOptions } from "./grpc.ts";

/** What plain HTTP callers can ask. */
export interface HttpPages {
  /** Whether the service is ready to be called. */
  ready(): Promise<boolean>;
  /** Metrics in Prometheus' text format. */
  metrics(): Promise<{ readonly type: string; readonly text: string }>;
}

/** Serves Connect, gRPC-Web and JSON over HTTP/1.1, with `/livez`, `/readyz` and `/metrics` beside them. */
export async function httpListener(options: ListenerOptions & { readonly pages: HttpPages }): Promise<Listener> {
  const { registrations, interceptors, host, port, maxMessageBytes, pages } = options;
  const shutdown = new AbortController();
  const rpcs = connectNodeAdapter({
    routes: (router) => {
      for (const { service, implementation } of registrations) router.service(service, implementation);
    },
    interceptors: [...interceptors],
    readMaxBytes: maxMessageBytes,
    shutdownSignal: shutdown.signal,
    fallback: (request, response) => {
      void page(request as IncomingMessage, response as ServerResponse, pages);
    },
  });
  const server = createServer({ requestTimeout: 60_000, headersTimeout: 10_000, maxHeaderSize: 16_384 }, rpcs);
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, () => {
      server.off("error", reject);
      resolve();
    });
  });
  // A TCP server that listens has an address with a port.
  const bound = (server.address() as AddressInfo).port;
  return {
    host,
    port: bound,
    drain: (graceMs) =>
      new Promise((resolve) => {
        const timer = setTimeout(() => {
          shutdown.abort();
          server.closeAllConnections();
        }, graceMs);
        server.close(() => {
          clearTimeout(timer);
          resolve();
        });
        server.closeIdleConnections();
      }),
    async [Symbol.asyncDispose]() {
      shutdown.abort();
      server.closeAllConnections();
      server.close();
    },
  };
}

async function page(request: IncomingMessage, response: ServerResponse, pages: HttpPages): Promise<void> {
  const answer = (status: number, text: string, type = "text/plain; charset=utf-8") => {
    response.writeHead(status, { "content-type": type }).end(text);
  };
  const { pathname } = new URL(request.url ?? "/", "http://localhost");
  try {
    if (pathname === "/livez") answer(200, "ok\n");
    else if (pathname === "/readyz") {
      const ready = await pages.ready();
      answer(ready ? 200 : 503, ready ? "ok\n" : "not ready\n");
    } else if (pathname === "/metrics") {
      const { type, text } = await pages.metrics();
      answer(200, text, type);
    } else answer(404, "not found\n");
  } catch {
    // What is asked here is asked again soon; the caller sees that it failed.
    answer(500, "failed\n");
  }
}

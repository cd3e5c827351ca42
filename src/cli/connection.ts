import type { DescService } from "@bufbuild/protobuf";
import { type Client, createClient, type Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

import { Failure } from "./failure.ts";

/** A way to the service. */
export interface Connection {
  readonly transport: Transport;
  client<S extends DescService>(service: S): Client<S>;
  /** Lets the process end, which an open connection would not. */
  close(): void;
}

/** Reads `host:port` or `https://host:port`; a port that is missing is the usual one. */
export function targetOf(address: string): URL {
  const given = /^[a-z]+:\/\//.test(address) ? address : `http://${address}`;
  const url = URL.parse(given);
  const isPlace = url !== null && ["http:", "https:"].includes(url.protocol) && url.hostname !== "";
  if (!isPlace || url.pathname !== "/" || url.search !== "" || url.username !== "") {
    throw new Failure(
      "usage",
      `${address} is no address`,
      "An address is HOST:PORT, or https://HOST:PORT where the service has TLS.",
    );
  }
  // URL leaves the usual ports of HTTP out, which are as good as any where they are written down.
  if (url.port === "" && !/:\d+\/?$/.test(given)) url.port = "50051";
  return url;
}

export function connect(target: URL): Connection {
  // A peer that is gone without a word is noticed while a watch waits.
  const sessionManager = new Http2SessionManager(target, { pingIntervalMs: 10_000, pingTimeoutMs: 10_000 });
  const transport = createGrpcTransport({ baseUrl: target.origin, sessionManager });
  return {
    transport,
    client: (service) => createClient(service, transport),
    close: () => sessionManager.abort(),
  };
}

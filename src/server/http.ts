import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import {
  constants,
  createServer as createHttp2Server,
  type Http2ServerRequest,
  type Http2ServerResponse,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from "node:http2";
import type { AddressInfo, Socket } from "node:net";

import { createRegistry } from "@bufbuild/protobuf";
import { Code, ConnectError, createConnectRouter, createContextValues } from "@connectrpc/connect";
import {
  compressionGzip,
  universalRequestFromNodeRequest,
  universalResponseToNodeResponse,
} from "@connectrpc/connect-node";

import { file_google_rpc_error_details } from "../../gen/google/rpc/error_details_pb.ts";
import { fail } from "../errors.ts";
import { farewellMs, goAway, settled } from "./connections.ts";
import { decoding, type Interruption, interruption } from "./interceptors/interruption.ts";
import { cannotListen, type Listener, type ListenerOptions } from "./listener.ts";
import { peerAddress, plainAddress } from "./peer.ts";
import { reading } from "./reading.ts";

/** What plain HTTP callers can ask. */
export interface HttpPages {
  /** Whether the service is ready to be called. */
  ready(): Promise<boolean>;
  /** Metrics in Prometheus' text format. */
  metrics(): Promise<{ readonly type: string; readonly text: string }>;
}

/**
 * Serves Connect, gRPC-Web, gRPC and JSON over HTTP/1.1 and HTTP/2 without TLS on one port, with `/livez`, `/readyz` and
 * `/metrics` beside them. Sends no CORS headers: browsers come from the same origin, or through a proxy that says otherwise.
 */
export async function httpListener(options: ListenerOptions & { readonly pages: HttpPages }): Promise<Listener> {
  const { host, port } = options;
  const shutdown = new AbortController();
  const calls = interruption();
  const rpc = rpcHandler(options, calls, shutdown.signal);
  const onRequest = (request: IncomingMessage, response: ServerResponse): void => {
    if (!rpc(request, response)) void page(request, response, options);
  };

  const limits = {
    requestTimeout: 300_000,
    headersTimeout: 10_000,
    // Longer than proxies keep a connection that says nothing: a call on one that is just being closed would be reset.
    keepAliveTimeout: 75_000,
    maxHeaderSize: 16_384,
  };
  const server = createServer(limits, (request, response) => {
    keepConnection(request, response);
    onRequest(request, response);
  });
  const http2 = createHttp2Server({ settings: { maxConcurrentStreams: 1000 }, maxSessionMemory: 64 });
  // Requests and responses of HTTP/2 have the members that are used here, and Connect asks them which they are.
  http2.on("request", onRequest as unknown as (request: Http2ServerRequest, response: Http2ServerResponse) => void);
  const sessions = new Set<ServerHttp2Session>();
  http2.on("session", (session) => {
    sessions.add(session);
    session.once("close", () => sessions.delete(session));
  });
  // A session's own fault ends that session; without a listener it would end the process.
  http2.on("sessionError", (error, session) => session.destroy(error));
  http2.on("stream", stopUploadAtEnd);
  speakBoth(server, (socket) => http2.emit("connection", socket));

  await new Promise<void>((resolve, reject) => {
    const refused = (error: Error) => reject(cannotListen("http", { host, port }, error));
    server.once("error", refused);
    server.listen(port, host, () => {
      server.off("error", refused);
      resolve();
    });
  });
  const cut = () => {
    shutdown.abort(fail("DRAINING", "The service is stopping; call again"));
    server.closeAllConnections();
    for (const session of sessions) session.destroy();
  };
  return {
    host,
    // A TCP server that listens has an address with a port.
    port: (server.address() as AddressInfo).port,
    async drain(graceMs) {
      // Connections of HTTP/1.1 close with the call that they carry.
      server.keepAliveTimeout = 1;
      server.keepAliveTimeoutBuffer = 0;
      const closed = new Promise<void>((resolve) => void server.close(() => resolve()));
      for (const session of sessions) goAway(session, "draining");
      if (await settled(closed, graceMs)) return;
      shutdown.abort(fail("DRAINING", "The service is stopping; call again"));
      calls.interrupt();
      if (!(await settled(closed, farewellMs))) cut();
      await closed;
    },
    async [Symbol.asyncDispose]() {
      const closed = new Promise<void>((resolve) => void server.close(() => resolve()));
      cut();
      await closed;
    },
  };
}

/** Runs a request where it is an rpc; false where it is something else. */
function rpcHandler(
  options: ListenerOptions,
  calls: Interruption,
  shutdownSignal: AbortSignal,
): (request: IncomingMessage, response: ServerResponse) => boolean {
  const { registrations, interceptors, maxMessageBytes, refusals, defaultDeadlineMs, log } = options;
  const requests = refusals === undefined ? undefined : reading(refusals);
  const router = createConnectRouter({
    ...(requests === undefined ? {} : { requestGate: requests.requestGate }),
    interceptors: [
      ...(requests === undefined ? [] : [requests.interceptor]),
      calls.interceptor,
      ...interceptors,
      decoding,
    ],
    readMaxBytes: maxMessageBytes,
    // Not Brotli, which at its usual level costs more than it saves.
    acceptCompression: [compressionGzip],
    jsonOptions: {
      // A filter, or `validateOnly`, whose name is mistyped would else be as good as none.
      ignoreUnknownFields: false,
      // Messages that are packed into an Any can be written as JSON only where their type is known.
      registry: createRegistry(file_google_rpc_error_details, ...registrations.map(({ service }) => service.file)),
    },
    shutdownSignal,
  });
  for (const { service, implementation } of registrations) router.service(service, implementation);
  const handlers = new Map(router.handlers.map((handler) => [handler.requestPath, handler]));
  return (request, response) => {
    const handler = handlers.get(pathOf(request));
    if (handler === undefined) return false;
    if (handler.method.methodKind === "unary") giveDeadline(request.headers, defaultDeadlineMs);
    const run = async () => {
      try {
        const values = createContextValues().set(peerAddress, plainAddress(request.socket.remoteAddress));
        // Throws where the authority of the request is none.
        const call = universalRequestFromNodeRequest(request, response, undefined, values);
        const answer = await (requests === undefined ? handler(call) : requests.answer(handler, call));
        await universalResponseToNodeResponse(answer, response);
      } catch (error) {
        const { code } = ConnectError.from(error);
        // The client left while it was answered.
        if (code === Code.Aborted || code === Code.Canceled) return;
        log.error({ err: error, rpc: handler.requestPath.slice(1) }, "A call could not be answered");
        if (!response.headersSent) response.writeHead(400);
        response.end();
      }
    };
    void run();
    return true;
  };
}

/**
 * Node destroys the connection of a request that is not read to its end, which a client sees as a reset of its next call. So
 * whoever stops reading leaves the request alone, and what is left of it is dropped once it is answered.
 */
function keepConnection(request: IncomingMessage, response: ServerResponse): void {
  request[Symbol.asyncIterator] = () => request.iterator({ destroyOnReturn: false });
  response.once("finish", () => request.resume());
}

/**
 * Tells a client to stop sending what nobody will read, once it has its answer. Otherwise it waits for room that never comes,
 * and so do the other calls of its connection.
 */
function stopUploadAtEnd(stream: ServerHttp2Stream): void {
  stream.once("wantTrailers", () => {
    // The trailers, which end the answer, are sent by another listener of this event.
    setImmediate(() => {
      if (!stream.closed && !stream.readableEnded) stream.close(constants.NGHTTP2_NO_ERROR);
    });
  });
}

/** A call that brings no deadline gets one in the words of its protocol, so that all that knows deadlines knows this one. */
function giveDeadline(headers: Record<string, string | string[] | undefined>, ms: number): void {
  if (!Number.isFinite(ms)) return;
  const isGrpc = String(headers["content-type"]).startsWith("application/grpc");
  if (isGrpc) headers["grpc-timeout"] ??= `${ms}m`;
  else headers["connect-timeout-ms"] ??= String(ms);
}

function pathOf({ url = "/" }: IncomingMessage): string {
  const query = url.indexOf("?");
  return query === -1 ? url : url.slice(0, query);
}

const preface = Buffer.from("PRI * HTTP/2.0");
const firstBytesMs = 10_000;

/**
 * Lets a server of HTTP/1.1 hand over connections that begin with HTTP/2's preface. Node tells the two apart by itself only
 * under TLS.
 */
function speakBoth(server: Server, toHttp2: (socket: Socket) => void): void {
  const toHttp1 = server.listeners("connection");
  server.removeAllListeners("connection");
  server.on("connection", (socket: Socket) => {
    let seen = Buffer.alloc(0);
    const giveUp = () => socket.destroy();
    const look = () => {
      const chunk: unknown = socket.read();
      if (!(chunk instanceof Buffer)) return;
      seen = Buffer.concat([seen, chunk]);
      const isHttp2 = seen.subarray(0, preface.length).equals(preface.subarray(0, seen.length));
      if (isHttp2 && seen.length < preface.length) return;
      socket.off("readable", look).off("timeout", giveUp).off("error", giveUp).off("end", giveUp).setTimeout(0);
      socket.unshift(seen);
      if (isHttp2) toHttp2(socket);
      else for (const listener of toHttp1) listener.call(server, socket);
    };
    socket.setTimeout(firstBytesMs).on("timeout", giveUp).on("error", giveUp).on("end", giveUp).on("readable", look);
  });
}

async function page(
  request: IncomingMessage,
  response: ServerResponse,
  { pages, log }: ListenerOptions & { readonly pages: HttpPages },
) {
  const answer = (status: number, text: string, type = "text/plain; charset=utf-8") => {
    response.writeHead(status, { "content-type": type, "cache-control": "no-store" }).end(text);
  };
  const path = pathOf(request);
  try {
    if (path !== "/livez" && path !== "/readyz" && path !== "/metrics") answer(404, "not found\n");
    else if (request.method !== "GET" && request.method !== "HEAD") answer(405, "method not allowed\n");
    else if (path === "/livez") answer(200, "ok\n");
    else if (path === "/readyz") {
      const isReady = await pages.ready();
      answer(isReady ? 200 : 503, isReady ? "ok\n" : "not ready\n");
    } else {
      const { type, text } = await pages.metrics();
      answer(200, text, type);
    }
  } catch (error) {
    log.error({ err: error, path }, "A page could not be made");
    answer(500, "failed\n");
  }
}

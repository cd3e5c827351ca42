import type { Http2Server, IncomingHttpHeaders, ServerHttp2Session, ServerHttp2Stream } from "node:http2";
import { Server as NetServer } from "node:net";

import { Code, ConnectError } from "@connectrpc/connect";
import * as grpc from "@grpc/grpc-js";

import { fail } from "../errors.ts";
import { farewellMs, goAway, settled } from "./connections.ts";
import { bridgedMethods, type BridgedMethod, type Route } from "./grpc-bridge.ts";
import type { Arrival, GrpcCall } from "./grpc-call.ts";
import { interrupted } from "./interceptors/interruption.ts";
import { cannotListen, type Listener, type ListenerOptions } from "./listener.ts";
import { statusOf } from "./metadata.ts";
import type { RequestRefusals } from "./request-refusals.ts";

/** What only the gRPC listener takes. */
export interface GrpcOptions {
  /** Age in milliseconds at which a connection is asked to close, give or take a tenth, so that clients spread over replicas. */
  readonly maxConnectionAgeMs: number;
  /** Milliseconds after that in which its calls may end by themselves; then they are interrupted. */
  readonly maxConnectionAgeGraceMs?: number;
}

/** A client's connection, with its calls that have not ended. */
interface Connection {
  readonly session: ServerHttp2Session;
  readonly calls: Set<GrpcCall>;
  /** How its calls arrive, by the `grpc-encoding` of their requests. */
  readonly arrivals: Readonly<Record<string, Arrival>>;
}

/**
 * Serves Connect handlers on @grpc/grpc-js, the cheapest wire between services. Handlers do not run behind its own call
 * classes but behind a server interceptor, which is handed each call while it is cheap: a stream and its headers.
 */
export async function grpcListener(options: ListenerOptions & GrpcOptions): Promise<Listener> {
  const { registrations, interceptors, host, port, maxMessageBytes, refusals, defaultDeadlineMs, log } = options;
  const routes = new Map<string, Route>();
  const connections = new Map<ServerHttp2Session, Connection>();
  /** Where the call comes from that @grpc/grpc-js is about to hand to the interceptor, in the same turn. */
  let arrival: Arrival | undefined;
  const sendExplained = refusals === undefined ? undefined : explained(refusals);

  const server = new grpc.Server({
    "grpc.max_receive_message_length": maxMessageBytes,
    "grpc.max_send_message_length": -1,
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.enable_channelz": 1,
    // A client may open many calls at once; more wait on its side.
    "grpc.max_concurrent_streams": 1000,
    interceptors: [
      ({ path }, call) => {
        const route = routes.get(path);
        if (route === undefined || arrival === undefined) return new grpc.ServerInterceptingCall(call);
        if (sendExplained !== undefined) call.sendStatus = sendExplained;
        route(call, arrival);
        return taken;
      },
    ],
  });
  for (const registration of registrations) {
    const methods = bridgedMethods(registration, interceptors, log);
    for (const { definition, route } of methods) routes.set(definition.path, route);
    server.addService(definitionsOf(methods), {});
  }
  grpc.addAdminServicesToServer(server);

  const bound = await new Promise<number>((resolve, reject) => {
    const address = host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
    server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, found) =>
      error === null ? resolve(found) : reject(cannotListen("grpc", { host, port }, error)),
    );
  });
  const servers = http2ServersOf(server);
  for (const http2Server of servers) {
    http2Server.on("session", (session) => {
      const connection = connectionOf(session, defaultDeadlineMs);
      connections.set(session, connection);
      session.once("close", () => connections.delete(session));
      closeAtAge(connection, options);
    });
    http2Server.prependListener("stream", (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => {
      const connection =
        stream.session === undefined ? undefined : connections.get(stream.session as ServerHttp2Session);
      const encoding = headers["grpc-encoding"];
      arrival =
        connection?.arrivals[
          encoding === undefined ? "identity" : encodings.has(String(encoding)) ? String(encoding) : "other"
        ];
      mend(headers);
    });
  }
  const lateCalls = setInterval(() => endLateCalls(connections.values()), Math.min(1000, defaultDeadlineMs / 4));
  lateCalls.unref();

  return {
    host,
    port: bound,
    async drain(graceMs) {
      // Not `close` of an HTTP/2 server, which cuts calls off that are on their way.
      for (const http2Server of servers) if (http2Server.listening) NetServer.prototype.close.call(http2Server);
      const open = [...connections.values()];
      const closed = Promise.all(open.map(({ session }) => new Promise((resolve) => session.once("close", resolve))));
      for (const { session } of open) goAway(session, "draining");
      if (!(await settled(closed, graceMs))) {
        for (const { calls } of open) interrupt(calls);
        await settled(closed, farewellMs);
      }
      clearInterval(lateCalls);
      server.forceShutdown();
    },
    async [Symbol.asyncDispose]() {
      clearInterval(lateCalls);
      server.forceShutdown();
    },
  };
}

function definitionsOf(methods: readonly BridgedMethod[]): grpc.ServiceDefinition {
  return Object.fromEntries(methods.map(({ name, definition }) => [name, definition]));
}

/**
 * The HTTP/2 servers behind a server. Private in @grpc/grpc-js, and the one place where this project reaches there: only they
 * tell of connections and how a request was compressed.
 */
function http2ServersOf(server: grpc.Server): readonly Http2Server[] {
  const found = (server as unknown as { http2Servers?: Map<Http2Server, unknown> }).http2Servers;
  if (found === undefined || found.size === 0) throw new Error("@grpc/grpc-js keeps its HTTP/2 servers elsewhere now");
  return [...found.keys()];
}

/** What @grpc/grpc-js gets to run a call that the bridge has taken: it never starts. */
const taken: grpc.ServerInterceptingCall = new grpc.ServerInterceptingCall(
  // Nothing is asked of the next call, since `start` is not passed on.
  {} as unknown as grpc.ServerInterceptingCallInterface,
  { start() {} },
);

function connectionOf(session: ServerHttp2Session, defaultDeadlineMs: number): Connection {
  const calls = new Set<GrpcCall>();
  const identity = { calls, defaultDeadlineMs, gzip: false };
  const other = { ...identity, refusal: unknownEncoding() };
  return { session, calls, arrivals: { identity, deflate: identity, gzip: { ...identity, gzip: true }, other } };
}

type PartialStatus = Parameters<grpc.ServerInterceptingCallInterface["sendStatus"]>[0];

/**
 * Gives a reason to what @grpc/grpc-js refuses by itself, in the midst of reading a request. It calls the method of its call for that, as
 * the bridge does, so that takes the place of the method: one function for all calls.
 */
function explained(refusals: RequestRefusals): (status: PartialStatus) => void {
  const explanationOf = ({ code, details, metadata }: PartialStatus): ConnectError | undefined => {
    // What the bridge sends has metadata, but for a call that went well.
    if (metadata || code === grpc.status.OK) return undefined;
    if (code === grpc.status.RESOURCE_EXHAUSTED) return refusals.tooLarge();
    return details === "Failed to decompress message" ? refusals.notCompressed() : undefined;
  };
  return function sendStatus(this: grpc.ServerInterceptingCallInterface, status) {
    const explanation = explanationOf(status);
    // The prototype of the call has the method that this one hides.
    const hidden = Object.getPrototypeOf(this) as grpc.ServerInterceptingCallInterface;
    hidden.sendStatus.call(this, explanation === undefined ? status : statusOf(explanation, undefined));
  };
}

const encodings = new Set(["identity", "deflate", "gzip"]);

function unknownEncoding(): ConnectError {
  const accepted = { "grpc-accept-encoding": [...encodings].join(",") };
  return new ConnectError("The request is compressed in a way that is not known here", Code.Unimplemented, accepted);
}

/** Longest `grpc-timeout` that fits a timer, in hours. @grpc/grpc-js takes a longer one for one that has passed. */
const mostTimeoutMs = 2 ** 31 - 1;

const unitMs: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1000 };

/** Keeps @grpc/grpc-js from what it takes for something else. */
function mend(headers: IncomingHttpHeaders): void {
  const type = headers["content-type"];
  // It would take any method, and gRPC-Web and JSON, for gRPC with protobuf; so it refuses them with a status of HTTP.
  const isPost = headers[":method"] === "POST";
  if (!isPost || (type !== "application/grpc" && !isGrpc(type))) headers["content-type"] = "";
  const timeout = headers["grpc-timeout"];
  if (typeof timeout === "string" && timeout.length > 5) {
    const ms = Number(timeout.slice(0, -1)) * (unitMs[timeout.slice(-1)] ?? 0);
    if (ms > mostTimeoutMs) delete headers["grpc-timeout"];
  }
}

function isGrpc(type: string | undefined): boolean {
  return type !== undefined && /^application\/grpc(\+proto)?\s*(;|$)/i.test(type);
}

function closeAtAge({ session, calls }: Connection, options: GrpcOptions): void {
  const { maxConnectionAgeMs, maxConnectionAgeGraceMs = 60_000 } = options;
  const later = (run: () => void, ms: number) => {
    const timer = setTimeout(run, ms);
    timer.unref();
    session.once("close", () => clearTimeout(timer));
  };
  // Spread, so that clients that came together do not come back together.
  const age = Math.min(maxConnectionAgeMs * (0.9 + Math.random() * 0.2), 2 ** 31 - 1);
  later(() => {
    goAway(session, "max_age");
    later(() => {
      interrupt(calls);
      later(() => session.destroy(), farewellMs);
    }, maxConnectionAgeGraceMs);
  }, age);
}

/** Ends calls whose connection ends, so that their callers know that they may call again. */
function interrupt(calls: ReadonlySet<GrpcCall>): void {
  for (const call of calls) {
    const { methodKind } = call.method;
    call.fail(interrupted(methodKind === "server_streaming" || methodKind === "bidi_streaming"));
  }
}

/** Calls that brought a deadline have a timer of @grpc/grpc-js; this ends those that were given one. */
function endLateCalls(connections: Iterable<Connection>): void {
  const now = Date.now();
  for (const { calls } of connections) {
    for (const call of calls) if (call.isLate(now)) call.fail(fail("DEADLINE_EXCEEDED", "The deadline has passed"));
  }
}

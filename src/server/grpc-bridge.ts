import { create, type DescMessage, type DescMethod, fromBinary, type Message, toBinary } from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  type HandlerContext,
  type Interceptor,
  type MethodImplSpec,
  type StreamRequest,
  type StreamResponse,
  type UnaryRequest,
  type UnaryResponse,
} from "@connectrpc/connect";
import type { MethodDefinition, ServerInterceptingCallInterface } from "@grpc/grpc-js";

import { fail } from "../errors.ts";
import { encodedBytes } from "../schema/encoded.ts";
import { type Arrival, GrpcCall } from "./grpc-call.ts";
import type { ErrorLog } from "./listener.ts";
import { methodsOf, type Registration } from "./registration.ts";
import { unreadable } from "./request-refusals.ts";

/** Begins a call of one method; @grpc/grpc-js has done no more for it than read its headers. */
export type Route = (wire: ServerInterceptingCallInterface, arrival: Arrival) => void;

type Next = ReturnType<Interceptor>;
type Request = UnaryRequest | StreamRequest;
type Response = UnaryResponse | StreamResponse;

/** A method on the wire: how @grpc/grpc-js finds it, and what runs it. Messages pass through @grpc/grpc-js as bytes. */
export interface BridgedMethod {
  readonly name: string;
  readonly definition: MethodDefinition<Uint8Array, Uint8Array>;
  readonly route: Route;
}

/** The methods of a service, each composed with its interceptors once. */
export function bridgedMethods(
  registration: Registration,
  interceptors: readonly Interceptor[],
  log: ErrorLog,
): readonly BridgedMethod[] {
  return methodsOf(registration).map(([method, spec]) => {
    const chain = composed(handlerOf(spec), interceptors);
    const takesOne = method.methodKind === "unary" || method.methodKind === "server_streaming";
    const run: Run = method.methodKind === "unary" ? unaryRun(chain) : streamRun(chain);
    const guardedRun = (call: GrpcCall, requests: Requests) => {
      run(call, requests).catch((error: unknown) => refuse(call, error, log));
    };
    return {
      name: method.name,
      definition: definitionOf(method),
      route: (wire, arrival) => {
        const call = takesOne
          ? new OneRequestCall(method, wire, arrival, guardedRun)
          : new ManyRequestsCall(method, wire, arrival, guardedRun);
        wire.start(call);
      },
    };
  });
}

function definitionOf({ methodKind, parent, name }: DescMethod): MethodDefinition<Uint8Array, Uint8Array> {
  const asBuffer = (bytes: Uint8Array) => {
    return bytes instanceof Buffer ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  };
  const asIs = (bytes: Buffer) => bytes;
  return {
    path: `/${parent.typeName}/${name}`,
    requestStream: methodKind === "client_streaming" || methodKind === "bidi_streaming",
    responseStream: methodKind === "server_streaming" || methodKind === "bidi_streaming",
    requestSerialize: asBuffer,
    requestDeserialize: asIs,
    responseSerialize: asBuffer,
    responseDeserialize: asIs,
  };
}

// ---------------------------------------------------------------- what comes in

/** The bytes of the one request, or those of many as they are asked for. */
type Requests = Uint8Array | AsyncIterable<Uint8Array>;
type Run = (call: GrpcCall, requests: Requests) => Promise<void>;

/** A call that takes one request: runs when the client has sent it and said that there is no more. */
class OneRequestCall extends GrpcCall {
  readonly #run: (call: GrpcCall, requests: Requests) => void;
  #request: Uint8Array | undefined;

  constructor(
    method: DescMethod,
    wire: ServerInterceptingCallInterface,
    arrival: Arrival,
    run: (call: GrpcCall, requests: Requests) => void,
  ) {
    super(method, wire, arrival);
    this.#run = run;
  }

  protected begin(): void {
    this.wire.startRead();
  }

  onReceiveMessage(bytes: Uint8Array): void {
    if (this.#request !== undefined) {
      this.fail(new ConnectError("The call takes one message and got more", Code.Unimplemented));
      return;
    }
    this.#request = bytes;
    this.wire.startRead();
  }

  onReceiveHalfClose(): void {
    if (this.hasEnded) return;
    if (this.#request === undefined) {
      this.fail(new ConnectError("The call takes one message and got none", Code.Unimplemented));
      return;
    }
    this.#run(this, this.#request);
  }

  protected finished(): void {}
}

type Read = IteratorResult<Uint8Array, undefined>;

/** A call that takes many requests: each is read from the wire when the handler asks for it, so that a slow one slows the client. */
class ManyRequestsCall extends GrpcCall implements AsyncIterableIterator<Uint8Array, undefined> {
  readonly #run: (call: GrpcCall, requests: Requests) => void;
  readonly #waiting: PromiseWithResolvers<Read>[] = [];
  #isOver = false;
  #cutOff: ConnectError | undefined;

  constructor(
    method: DescMethod,
    wire: ServerInterceptingCallInterface,
    arrival: Arrival,
    run: (call: GrpcCall, requests: Requests) => void,
  ) {
    super(method, wire, arrival);
    this.#run = run;
  }

  protected begin(): void {
    this.#run(this, this);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<Read> {
    if (this.#isOver) return { done: true, value: undefined };
    if (this.#cutOff !== undefined) throw this.#cutOff;
    const read = Promise.withResolvers<Read>();
    this.#waiting.push(read);
    if (this.#waiting.length === 1) this.wire.startRead();
    return read.promise;
  }

  async return(): Promise<Read> {
    this.#isOver = true;
    return { done: true, value: undefined };
  }

  onReceiveMessage(bytes: Uint8Array): void {
    this.#waiting.shift()?.resolve({ done: false, value: bytes });
    if (this.#waiting.length > 0) this.wire.startRead();
  }

  onReceiveHalfClose(): void {
    this.#isOver = true;
    for (const read of this.#waiting.splice(0)) read.resolve({ done: true, value: undefined });
  }

  protected finished(why: ConnectError): void {
    this.#cutOff = why;
    for (const read of this.#waiting.splice(0)) read.reject(why);
  }
}

function parse(schema: DescMessage, bytes: Uint8Array): Message {
  try {
    return fromBinary(schema, bytes);
  } catch (cause) {
    throw unreadable(schema, cause);
  }
}

async function* parsed(schema: DescMessage, requests: Requests): AsyncGenerator<Message> {
  if (requests instanceof Uint8Array) {
    yield parse(schema, requests);
    return;
  }
  for await (const bytes of requests) yield parse(schema, bytes);
}

// ---------------------------------------------------------------- interceptors and handler

/** Leads from a request that interceptors pass on to its call. Copies of the request carry it along. */
const ofCall = Symbol("call");

/** The request of a unary call. Its members are made when they are asked for, so they are getters of its class. */
class CallRequest {
  readonly [ofCall]: GrpcCall;
  readonly stream = false;
  readonly message: Message;
  constructor(call: GrpcCall, message: Message) {
    this[ofCall] = call;
    this.message = message;
  }
  get method() {
    return this[ofCall].method;
  }
  get service() {
    return this[ofCall].service;
  }
  get requestMethod() {
    return this[ofCall].requestMethod;
  }
  get url() {
    return this[ofCall].url;
  }
  get signal() {
    return this[ofCall].signal;
  }
  get header() {
    return this[ofCall].requestHeader;
  }
  get contextValues() {
    return this[ofCall].values;
  }
}

/** The response of a unary call, with getters for the same reason. */
class CallResponse {
  readonly #call: GrpcCall;
  readonly stream = false;
  readonly message: Message;
  constructor(call: GrpcCall, message: Message) {
    this.#call = call;
    this.message = message;
  }
  get method() {
    return this.#call.method;
  }
  get service() {
    return this.#call.service;
  }
  get header() {
    return this.#call.responseHeader;
  }
  get trailer() {
    return this.#call.responseTrailer;
  }
}

/** A stream lasts: its request has all members at once. */
function streamRequest(call: GrpcCall, message: AsyncIterable<Message>) {
  const { method, service, requestMethod, url, signal, requestHeader: header, values: contextValues } = call;
  return { [ofCall]: call, stream: true, message, method, service, requestMethod, url, signal, header, contextValues };
}

function streamResponse(call: GrpcCall, message: AsyncIterable<Message>) {
  const { method, service, responseHeader: header, responseTrailer: trailer } = call;
  return { stream: true, message, method, service, header, trailer };
}

function composed(handler: Next, interceptors: readonly Interceptor[]): Next {
  return interceptors.reduceRight<Next>((next, interceptor) => interceptor((request) => next(whole(request))), handler);
}

/** An interceptor that copies a unary request by spreading loses its getters; they come back here, under what it has set. */
function whole(request: Request): Request {
  if (request.stream || request instanceof CallRequest) return request;
  const untouched = new CallRequest(callOf(request), request.message);
  return Object.create(untouched, Object.getOwnPropertyDescriptors(request)) as Request;
}

function callOf(request: Request): GrpcCall {
  const call = (request as Partial<CallRequest>)[ofCall];
  if (call === undefined)
    throw new Error("An interceptor passed on a request that is neither its own nor a copy of it");
  return call;
}

/** The context of a handler: the call, unless an interceptor replaced a part of it. */
function contextOf(request: Request): HandlerContext {
  const call = callOf(request);
  if (Object.getPrototypeOf(request) === CallRequest.prototype) return call;
  return {
    method: call.method,
    service: request.service,
    signal: request.signal,
    timeoutMs: call.timeoutMs,
    requestMethod: call.requestMethod,
    requestHeader: request.header,
    responseHeader: call.responseHeader,
    responseTrailer: call.responseTrailer,
    protocolName: call.protocolName,
    values: request.contextValues,
    url: call.url,
  };
}

/** The innermost of the chain. What it takes and returns is what the contract of its method says: `serve` checked the handler. */
function handlerOf(spec: MethodImplSpec): Next {
  const { output } = spec.method;
  const complete = (init: object) => create(output, init as Record<string, unknown>);
  async function* completed(inits: AsyncIterable<object>): AsyncGenerator<Message> {
    for await (const init of inits) yield complete(init);
  }
  if (spec.kind === "unary") {
    return async (request) => {
      const message = complete(await spec.impl(request.message as Message, contextOf(request)));
      return new CallResponse(callOf(request), message) as unknown as UnaryResponse;
    };
  }
  return async (request) => {
    const requests = request.message as AsyncIterable<Message>;
    const context = contextOf(request);
    let responses: AsyncIterable<Message>;
    if (spec.kind === "client_streaming") responses = only(complete(await spec.impl(requests, context)));
    else if (spec.kind === "bidi_streaming") responses = completed(spec.impl(requests, context));
    else responses = completed(spec.impl(await first(requests), context));
    return streamResponse(callOf(request), responses) as unknown as StreamResponse;
  };
}

/** The one request of a call that streams only to the client. */
async function first(requests: AsyncIterable<Message>): Promise<Message> {
  for await (const request of requests) return request;
  throw new ConnectError("An interceptor kept the request back", Code.Internal);
}

async function* only(message: Message): AsyncGenerator<Message> {
  yield message;
}

// ---------------------------------------------------------------- what goes out

function unaryRun(chain: Next): Run {
  return async (call, requests) => {
    const { input, output } = call.method;
    // Of a call that takes one request.
    const message = parse(input, requests as Uint8Array);
    const response = await chain(new CallRequest(call, message) as unknown as UnaryRequest);
    if (call.hasEnded) return;
    takeOver(call, response);
    await call.reply(bytesOf(output, response.message as Message));
  };
}

function streamRun(chain: Next): Run {
  return async (call, requests) => {
    const { input, output } = call.method;
    const response = await chain(streamRequest(call, parsed(input, requests)) as unknown as StreamRequest);
    takeOver(call, response);
    for await (const message of response.message as AsyncIterable<Message>) {
      if (call.hasEnded) return;
      const room = call.send(bytesOf(output, message));
      if (room !== undefined) await room;
    }
    takeOver(call, response);
    call.succeed();
  };
}

function bytesOf(schema: DescMessage, message: Message): Uint8Array {
  return encodedBytes(message) ?? toBinary(schema, message);
}

/** An interceptor may answer with headers of its own. */
function takeOver(call: GrpcCall, response: Response): void {
  if (response instanceof CallResponse) return;
  replace(call.responseHeader, response.header);
  replace(call.responseTrailer, response.trailer);
}

function replace(headers: Headers, replacement: Headers | undefined): void {
  if (replacement === undefined || headers === replacement) return;
  for (const key of Array.from(headers.keys())) headers.delete(key);
  for (const [key, value] of replacement) headers.append(key, value);
}

function refuse(call: GrpcCall, error: unknown, log: ErrorLog): void {
  if (call.hasEnded) return;
  try {
    call.fail(error instanceof ConnectError ? error : unexpected(call, error, log));
  } catch (bug) {
    // Its headers or trailers cannot be sent.
    call.fail(unexpected(call, bug, log));
  }
}

/** Interceptors let nothing through but what a caller may be told; what fails here failed between them and the wire. */
function unexpected(call: GrpcCall, error: unknown, log: ErrorLog): ConnectError {
  log.error({ err: error, rpc: `${call.service.typeName}/${call.method.name}` }, "A call failed unexpectedly");
  return fail("INTERNAL", "Something went wrong here", { cause: error });
}

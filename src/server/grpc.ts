import {
  create,
  fromBinary,
  isMessage,
  toBinary,
  type DescMessage,
  type DescMethod,
  type Message,
} from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  type Interceptor,
  type MethodImplSpec,
  type StreamRequest,
  type StreamResponse,
  type UnaryRequest,
  type UnaryResponse,
} from "@connectrpc/connect";
import * as grpc from "@grpc/grpc-js";

import { CallContext } from "./call-context.ts";
import { metadataOf, serviceErrorOf } from "./metadata.ts";
import { methodsOf, type Registration } from "./registration.ts";

/** A listener that serves. Disposing it cuts off what still runs. */
export interface Listener extends AsyncDisposable {
  readonly host: string;
  readonly port: number;
  /** Takes no new calls and resolves when those that run have ended, or after `graceMs`. */
  drain(graceMs: number): Promise<void>;
}

/** What both listeners take. */
export interface ListenerOptions {
  readonly registrations: readonly Registration[];
  /** The first one is the outermost. Composed once for each method. */
  readonly interceptors: readonly Interceptor[];
  readonly host: string;
  readonly port: number;
  /** Largest request message in bytes, after decompression. */
  readonly maxMessageBytes: number;
}

type AnyFn = ReturnType<Interceptor>;

/** Serves Connect handlers on @grpc/grpc-js, the cheapest wire between services. */
export async function grpcListener(
  options: ListenerOptions & { readonly maxConnectionAgeMs: number },
): Promise<Listener> {
  const { registrations, interceptors, host, port, maxMessageBytes, maxConnectionAgeMs } = options;
  const server = new grpc.Server({
    "grpc.max_receive_message_length": maxMessageBytes,
    "grpc.max_send_message_length": -1,
    "grpc.max_connection_age_ms": maxConnectionAgeMs,
    "grpc.max_connection_age_grace_ms": 60_000,
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.enable_channelz": 1,
    // A client may open many calls at once; more wait on its side.
    "grpc.max_concurrent_streams": 1000,
  });
  for (const registration of registrations) {
    const definition: Record<string, grpc.MethodDefinition<Message, Message>> = {};
    const implementation: grpc.UntypedServiceImplementation = {};
    for (const [method, spec] of methodsOf(registration)) {
      definition[method.name] = definitionOf(method);
      implementation[method.name] = handlerOf(method, spec, interceptors);
    }
    server.addService(definition, implementation);
  }
  grpc.addAdminServicesToServer(server);
  const bound = await new Promise<number>((resolve, reject) => {
    const address = host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
    server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, found) =>
      error === null ? resolve(found) : reject(error),
    );
  });
  return {
    host,
    port: bound,
    drain: (graceMs) =>
      new Promise((resolve) => {
        const timer = setTimeout(() => server.forceShutdown(), graceMs);
        server.tryShutdown(() => {
          clearTimeout(timer);
          resolve();
        });
      }),
    async [Symbol.asyncDispose]() {
      server.forceShutdown();
    },
  };
}

function definitionOf(method: DescMethod): grpc.MethodDefinition<Message, Message> {
  const { methodKind, input, output, parent, name } = method;
  return {
    path: `/${parent.typeName}/${name}`,
    requestStream: methodKind === "client_streaming" || methodKind === "bidi_streaming",
    responseStream: methodKind === "server_streaming" || methodKind === "bidi_streaming",
    requestSerialize: (message) => bytesOf(input, message),
    requestDeserialize: (bytes) => fromBinary(input, bytes),
    responseSerialize: (message) => bytesOf(output, message),
    responseDeserialize: (bytes) => fromBinary(output, bytes),
  };
}

function bytesOf(schema: DescMessage, message: Message): Buffer {
  const bytes = toBinary(schema, message);
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** The handler of a method behind its interceptors, with the context of a call in reach. */
function chainOf(method: DescMethod, innermost: AnyFn, interceptors: readonly Interceptor[]): AnyFn {
  return interceptors.reduceRight((next, interceptor) => interceptor(next), innermost);
}

/** Interceptors pass their request on, or a copy of it with other members; the context goes along. */
interface WithContext {
  readonly context: CallContext;
}

/** A request whose members are made when they are asked for. */
class LazyRequest {
  readonly stream: boolean;
  readonly message: unknown;
  readonly context: CallContext;
  constructor(context: CallContext, stream: boolean, message: unknown) {
    this.context = context;
    this.stream = stream;
    this.message = message;
  }
  get method() {
    return this.context.method;
  }
  get service() {
    return this.context.service;
  }
  get requestMethod() {
    return this.context.requestMethod;
  }
  get url() {
    return this.context.url;
  }
  get signal() {
    return this.context.signal;
  }
  get header() {
    return this.context.requestHeader;
  }
  get contextValues() {
    return this.context.values;
  }
}

/** A response whose headers are made when they are asked for. */
class LazyResponse {
  readonly stream: boolean;
  readonly message: unknown;
  readonly #context: CallContext;
  constructor(context: CallContext, stream: boolean, message: unknown) {
    this.#context = context;
    this.stream = stream;
    this.message = message;
  }
  get method() {
    return this.#context.method;
  }
  get service() {
    return this.#context.service;
  }
  get header() {
    return this.#context.responseHeader;
  }
  get trailer() {
    return this.#context.responseTrailer;
  }
}

/** A handler returns a message or what one is made from; its type was checked by `serve`. */
function complete(method: DescMethod, init: object): Message {
  return isMessage(init, method.output) ? init : create(method.output, init as Record<string, unknown>);
}

async function* completed(method: DescMethod, inits: AsyncIterable<object>): AsyncGenerator<Message> {
  for await (const init of inits) yield complete(method, init);
}

function handlerOf(
  method: DescMethod,
  spec: MethodImplSpec,
  interceptors: readonly Interceptor[],
): grpc.UntypedHandleCall {
  // The bridge hands on what the contract of the method says; `serve` checked the handlers against it.
  const innermost = async (request: UnaryRequest | StreamRequest) => {
    const { context } = request as unknown as WithContext;
    if (spec.kind === "unary") {
      const message = complete(method, await spec.impl(request.message as Message, context));
      return new LazyResponse(context, false, message) as unknown as UnaryResponse;
    }
    const requests = request.message as AsyncIterable<Message>;
    if (spec.kind === "server_streaming") {
      const messages = completed(method, spec.impl(await only(requests), context));
      return new LazyResponse(context, true, messages) as unknown as StreamResponse;
    }
    if (spec.kind === "bidi_streaming") {
      return new LazyResponse(
        context,
        true,
        completed(method, spec.impl(requests, context)),
      ) as unknown as StreamResponse;
    }
    const message = complete(method, await spec.impl(requests, context));
    return new LazyResponse(context, true, justOne(message)) as unknown as StreamResponse;
  };
  const chain = chainOf(method, innermost, interceptors);
  const run = (context: CallContext, stream: boolean, message: unknown) =>
    chain(new LazyRequest(context, stream, message) as unknown as UnaryRequest);

  switch (spec.kind) {
    case "unary":
      return (call: grpc.ServerUnaryCall<Message, Message>, callback: grpc.sendUnaryData<Message>) => {
        const context = new CallContext(method, call);
        run(context, false, call.request).then(
          (response) => {
            answer(context, call, callback, response.message as Message);
          },
          (error: unknown) => refuse(context, call, callback, error),
        );
      };
    case "client_streaming":
      return (call: grpc.ServerReadableStream<Message, Message>, callback: grpc.sendUnaryData<Message>) => {
        const context = new CallContext(method, call);
        void (async () => {
          try {
            const response = await run(context, true, call);
            answer(context, call, callback, await only(response.message as AsyncIterable<Message>));
          } catch (error) {
            refuse(context, call, callback, error);
          }
        })();
      };
    case "server_streaming":
      return (call: grpc.ServerWritableStream<Message, Message>) => {
        const context = new CallContext(method, call);
        void pump(context, call, () => run(context, true, justOne(call.request)));
      };
    case "bidi_streaming":
      return (call: grpc.ServerDuplexStream<Message, Message>) => {
        const context = new CallContext(method, call);
        void pump(context, call, () => run(context, true, call));
      };
  }
}

function answer(
  context: CallContext,
  call: { sendMetadata(metadata: grpc.Metadata): void },
  callback: grpc.sendUnaryData<Message>,
  message: Message,
): void {
  const { header, trailer } = context.sent;
  if (header !== undefined) call.sendMetadata(metadataOf(header));
  if (trailer === undefined) callback(null, message);
  else callback(null, message, metadataOf(trailer));
  context.end();
}

function refuse(
  context: CallContext,
  call: { sendMetadata(metadata: grpc.Metadata): void },
  callback: grpc.sendUnaryData<Message>,
  error: unknown,
): void {
  const { header, trailer } = context.sent;
  if (header !== undefined) call.sendMetadata(metadataOf(header));
  callback(serviceErrorOf(ConnectError.from(error), trailer));
  context.end();
}

type Writable = grpc.ServerWritableStream<Message, Message> | grpc.ServerDuplexStream<Message, Message>;

/** Sends what a handler yields at the pace of the reader, then the end of the call. */
async function pump(
  context: CallContext,
  call: Writable,
  open: () => Promise<UnaryResponse | StreamResponse>,
): Promise<void> {
  let headerSent = false;
  const sendHeader = () => {
    if (headerSent) return;
    headerSent = true;
    call.sendMetadata(metadataOf(context.sent.header));
  };
  // Made now, so that a reader that leaves while the handler waits for its next message ends that wait.
  const { signal } = context;
  try {
    const { message } = await open();
    for await (const next of message as AsyncIterable<Message>) {
      sendHeader();
      if (signal.aborted) break;
      if (!call.write(next)) await drained(call, signal);
    }
    sendHeader();
    const { trailer } = context.sent;
    if (trailer === undefined) call.end();
    else call.end(metadataOf(trailer));
  } catch (error) {
    sendHeader();
    call.emit("error", serviceErrorOf(ConnectError.from(error), context.sent.trailer));
  } finally {
    context.end();
  }
}

/** Resolves when there is room for more, or nobody reads any longer. */
function drained(call: Writable, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      call.off("drain", done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    call.once("drain", done);
    signal.addEventListener("abort", done);
    if (signal.aborted) done();
  });
}

async function* justOne<T>(value: T): AsyncGenerator<T> {
  yield value;
}

async function only(messages: AsyncIterable<Message>): Promise<Message> {
  let found: Message | undefined;
  for await (const message of messages) {
    if (found !== undefined) throw new ConnectError("The call takes one message and got more", Code.Unimplemented);
    found = message;
  }
  if (found === undefined) throw new ConnectError("The call takes one message and got none", Code.Unimplemented);
  return found;
}

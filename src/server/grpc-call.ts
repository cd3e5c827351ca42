import { promisify } from "node:util";
import { gzip as gzipCallback } from "node:zlib";

import type { DescMethod } from "@bufbuild/protobuf";
import { Code, ConnectError, type ContextValues, createContextValues, type HandlerContext } from "@connectrpc/connect";
import { Metadata, type ServerInterceptingCallInterface, status as Status } from "@grpc/grpc-js";

import { fail } from "../errors.ts";
import { headersOf, metadataOf, statusOf } from "./metadata.ts";
import { peerAddress, plainAddress } from "./peer.ts";

const gzip = promisify(gzipCallback);

/** Responses below this are not compressed: the call would cost more than it saves. */
const compressFromBytes = 1024;

/** What may be on its way to a client that has not taken it, for each stream; one message may go over it. */
const windowBytes = 64 * 1024;

/** What each message costs beside its bytes, so that many small ones fill the window too. */
const messageOverheadBytes = 256;

/** What a call knows of where it came from. */
export interface Arrival {
  /** The calls of its connection that have not ended. */
  readonly calls: Set<GrpcCall>;
  /** Whether the client compresses its own messages; it is answered alike. */
  readonly gzip: boolean;
  readonly defaultDeadlineMs: number;
  /** Why the call cannot be served. */
  readonly refusal?: ConnectError;
}

/**
 * One call on the wire of @grpc/grpc-js, and its context for interceptors and the handler. What a call does not ask for is not
 * made: headers, values, a signal and above all a timer cost more than a small call has to spend.
 */
export abstract class GrpcCall implements HandlerContext {
  readonly method: DescMethod;
  protected readonly wire: ServerInterceptingCallInterface;
  readonly #arrival: Arrival;
  #metadata: Metadata | undefined;
  #deadline = Infinity;
  #ended: ConnectError | undefined;
  #controller: AbortController | undefined;
  #requestHeader: Headers | undefined;
  #responseHeader: Headers | undefined;
  #responseTrailer: Headers | undefined;
  #values: ContextValues | undefined;
  #headerSent = false;
  #bytesOnTheirWay = 0;
  #whenRoom: (() => void) | undefined;

  constructor(method: DescMethod, wire: ServerInterceptingCallInterface, arrival: Arrival) {
    this.method = method;
    this.wire = wire;
    this.#arrival = arrival;
  }

  abstract onReceiveMessage(bytes: Uint8Array): void;
  abstract onReceiveHalfClose(): void;
  /** Called once the headers are there. */
  protected abstract begin(): void;
  /** Called once, when nobody waits for an answer any longer, or it was given. */
  protected abstract finished(why: ConnectError): void;

  onReceiveMetadata(metadata: Metadata): void {
    this.#metadata = metadata;
    this.#arrival.calls.add(this);
    this.#deadline = Number(this.wire.getDeadline());
    if (this.#deadline === Infinity && this.method.methodKind === "unary") {
      this.#deadline = Date.now() + this.#arrival.defaultDeadlineMs;
    }
    if (this.#arrival.refusal === undefined) this.begin();
    else this.fail(this.#arrival.refusal);
  }

  /** The client left, or @grpc/grpc-js has told it that its deadline has passed. Comes after an answer, too. */
  onCancel(): void {
    const isLate = Date.now() >= this.#deadline;
    this.#end(isLate ? fail("DEADLINE_EXCEEDED", "The deadline has passed") : left());
  }

  get service() {
    return this.method.parent;
  }

  get requestMethod(): string {
    return "POST";
  }

  get protocolName(): string {
    return "grpc";
  }

  get url(): string {
    return `http://${this.wire.getHost()}/${this.method.parent.typeName}/${this.method.name}`;
  }

  readonly timeoutMs = (): number | undefined =>
    this.#deadline === Infinity ? undefined : this.#deadline - Date.now();

  /** Aborted with an error that a caller may be told: when the client leaves, the deadline passes, or the call has ended. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#ended !== undefined) this.#controller.abort(this.#ended);
    }
    return this.#controller.signal;
  }

  get requestHeader(): Headers {
    this.#requestHeader ??= headersOf(this.#metadata ?? new Metadata());
    return this.#requestHeader;
  }

  get responseHeader(): Headers {
    this.#responseHeader ??= new Headers();
    return this.#responseHeader;
  }

  get responseTrailer(): Headers {
    this.#responseTrailer ??= new Headers();
    return this.#responseTrailer;
  }

  get values(): ContextValues {
    this.#values ??= createContextValues().set(peerAddress, hostOf(this.wire.getPeer()));
    return this.#values;
  }

  /** Whether nobody waits for an answer any longer. */
  get hasEnded(): boolean {
    return this.#ended !== undefined;
  }

  /** Whether its deadline has passed. */
  isLate(now: number): boolean {
    return now >= this.#deadline;
  }

  /** Answers with one message. */
  reply(bytes: Uint8Array): void | Promise<void> {
    if (this.#arrival.gzip) return this.#replyCompressed(bytes);
    this.#sendHeader(false);
    this.wire.sendMessage(bytes, ignore);
    this.succeed();
  }

  async #replyCompressed(bytes: Uint8Array): Promise<void> {
    await this.send(bytes);
    this.succeed();
  }

  /**
   * Sends one of many messages. Resolves, where it returns a promise, when there is room for more or the call has ended, so
   * that a slow reader slows the handler and does not fill memory.
   */
  send(bytes: Uint8Array): void | Promise<void> {
    this.#sendHeader(true);
    if (this.#arrival.gzip && bytes.byteLength >= compressFromBytes) {
      return gzip(bytes).then((packed) => this.#write(asCompressed(packed)));
    }
    return this.#write(bytes);
  }

  #write(bytes: Uint8Array): void | Promise<void> {
    if (this.#ended !== undefined) return;
    const size = bytes.byteLength + messageOverheadBytes;
    this.#bytesOnTheirWay += size;
    this.wire.sendMessage(bytes, () => {
      this.#bytesOnTheirWay -= size;
      if (this.#bytesOnTheirWay < windowBytes) this.#whenRoom?.();
    });
    if (this.#bytesOnTheirWay < windowBytes) return;
    return new Promise((resolve) => {
      this.#whenRoom = resolve;
    });
  }

  #sendHeader(isStream: boolean): void {
    if (this.#headerSent) return;
    this.#headerSent = true;
    const mayCompress = this.#arrival.gzip;
    // Where nothing was set, @grpc/grpc-js sends what it always sends.
    if (this.#responseHeader === undefined && !mayCompress && !isStream) return;
    this.wire.sendMetadata(metadataOf([this.#responseHeader], mayCompress ? { "grpc-encoding": "gzip" } : {}));
  }

  /** Ends the call well, after what was sent. */
  succeed(): void {
    if (this.#ended !== undefined) return;
    this.#sendHeader(false);
    const trailer = this.#responseTrailer;
    // Not after the last message has left but with it: one write to the socket instead of two.
    this.wire.sendStatus(trailer === undefined ? ok : { ...ok, metadata: metadataOf([trailer]) });
    this.#end(over());
  }

  /** Ends the call with an error. */
  fail(error: ConnectError): void {
    if (this.#ended !== undefined) return;
    if (isSet(this.#responseHeader)) this.#sendHeader(false);
    const trailer = this.#responseTrailer;
    // Where these trailers cannot be sent, which throws, the failure that says so goes without them.
    this.#responseTrailer = undefined;
    this.wire.sendStatus(statusOf(error, trailer));
    this.#end(error);
  }

  #end(why: ConnectError): void {
    if (this.#ended !== undefined) return;
    this.#ended = why;
    this.#arrival.calls.delete(this);
    this.finished(why);
    this.#whenRoom?.();
    this.#controller?.abort(why);
  }
}

const ok = { code: Status.OK, details: "", metadata: null };

function ignore(): void {}

/** @grpc/grpc-js puts the port behind an address, and says `unknown` of a connection that is gone. */
function hostOf(peer: string): string {
  return peer === "unknown" ? "" : plainAddress(peer.slice(0, peer.lastIndexOf(":")));
}

function isSet(headers: Headers | undefined): boolean {
  return headers !== undefined && headers.keys().next().done !== true;
}

// An error costs microseconds for its stack, which says nothing here: one for all calls does.
let goneError: ConnectError | undefined;
function left(): ConnectError {
  goneError ??= fail("CANCELLED", "The call was cancelled");
  return goneError;
}
let overError: ConnectError | undefined;
function over(): ConnectError {
  overError ??= new ConnectError("The call has ended", Code.Canceled);
  return overError;
}

/**
 * Marks a message as compressed. @grpc/grpc-js never compresses what a server sends: it writes a zero, the length, then copies
 * the message behind these; so the copying sets the flag.
 */
function asCompressed(bytes: Buffer): Buffer {
  return Object.assign(bytes, {
    copy(target: Uint8Array, at: number): number {
      target[at - 5] = 1;
      target.set(bytes, at);
      return bytes.byteLength;
    },
  });
}

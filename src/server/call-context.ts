import type { DescMethod } from "@bufbuild/protobuf";
import { Code, ConnectError, type ContextValues, createContextValues, type HandlerContext } from "@connectrpc/connect";
import type { ServerUnaryCall } from "@grpc/grpc-js";

import { headersOf } from "./metadata.ts";

/** What the bridge needs of a call of @grpc/grpc-js. */
export type Call = Pick<ServerUnaryCall<unknown, unknown>, "metadata" | "cancelled" | "getDeadline"> & {
  once(event: "cancelled", listener: () => void): unknown;
};

/**
 * The context of one call. What a call does not ask for is not made: a signal, headers and values cost more than a small call
 * has to spend.
 */
export class CallContext implements HandlerContext {
  readonly method: DescMethod;
  readonly requestMethod = "POST";
  readonly protocolName = "grpc";
  readonly #call: Call;
  #controller: AbortController | undefined;
  #timer: NodeJS.Timeout | undefined;
  #ended = false;
  #requestHeader: Headers | undefined;
  #responseHeader: Headers | undefined;
  #responseTrailer: Headers | undefined;
  #values: ContextValues | undefined;

  constructor(method: DescMethod, call: Call) {
    this.method = method;
    this.#call = call;
  }

  get service() {
    return this.method.parent;
  }

  get url(): string {
    return `http://localhost/${this.method.parent.typeName}/${this.method.name}`;
  }

  readonly timeoutMs = (): number | undefined => {
    const deadline = Number(this.#call.getDeadline());
    return Number.isFinite(deadline) ? deadline - Date.now() : undefined;
  };

  get signal(): AbortSignal {
    this.#controller ??= this.#startWatching();
    return this.#controller.signal;
  }

  #startWatching(): AbortController {
    const controller = new AbortController();
    const cancel = () => controller.abort(new ConnectError("The call was cancelled", Code.Canceled));
    if (this.#call.cancelled) cancel();
    else this.#call.once("cancelled", cancel);
    const timeoutMs = this.timeoutMs();
    if (timeoutMs !== undefined && !this.#ended) {
      const expire = () => controller.abort(new ConnectError("The deadline has passed", Code.DeadlineExceeded));
      if (timeoutMs <= 0) expire();
      // A timer holds 2^31-1 ms at most; a deadline of more than 24 days is none.
      else if (timeoutMs < 2 ** 31) this.#timer = setTimeout(expire, timeoutMs);
    }
    return controller;
  }

  /** Releases what was made for the call, and tells work that goes on that nobody waits for it. */
  end(): void {
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#controller?.abort(new ConnectError("The call has ended", Code.Canceled));
  }

  get requestHeader(): Headers {
    this.#requestHeader ??= headersOf(this.#call.metadata);
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
    this.#values ??= createContextValues();
    return this.#values;
  }

  /** The headers and trailers that were set; undefined where none was asked for. */
  get sent(): { readonly header: Headers | undefined; readonly trailer: Headers | undefined } {
    return { header: this.#responseHeader, trailer: this.#responseTrailer };
  }
}

import type { Interceptor } from "@connectrpc/connect";

import { BadSettings, settings } from "../config.ts";
import type { Registration } from "./registration.ts";
import type { RequestRefusals } from "./request-refusals.ts";

/** A listener that serves. Disposing it cuts off what still runs. */
export interface Listener extends AsyncDisposable {
  readonly host: string;
  readonly port: number;
  /**
   * Takes no new connections, asks clients to leave and resolves when their calls have ended. Calls that still run after
   * `graceMs` end with UNAVAILABLE: `WATCH_INTERRUPTED` where they stream to the client, `DRAINING` else.
   */
  drain(graceMs: number): Promise<void>;
}

/** What keeps a listener from its address, as a taken port does. */
export function cannotListen(
  of: "grpc" | "http",
  config: { readonly host: string; readonly port: number },
  error: Error,
): Error {
  // What the libraries say ends with the words of the system.
  const why = /(?:listen )?(E[A-Z]+(?:: [a-z ]+)?)/.exec(error.message)?.[1]?.trim() ?? error.message;
  const { host, port } = settings[of];
  const address = `${config.host}:${config.port}`;
  return new BadSettings(`The service cannot listen on ${address} (${host.name}, ${port.name}): ${why}`);
}

/** Where a listener tells what went wrong that no caller can act on. */
export interface ErrorLog {
  error(facts: object, message: string): void;
}

/** What both listeners take. */
export interface ListenerOptions {
  readonly registrations: readonly Registration[];
  /** The first one is the outermost. Composed once for each method; each passes on its request, or a copy of it. */
  readonly interceptors: readonly Interceptor[];
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  /** Largest request message in bytes, after decompression. */
  readonly maxMessageBytes: number;
  /** What is said of requests that cannot be read; without, it is what the libraries below say. */
  readonly refusals?: RequestRefusals;
  /** Deadline in milliseconds of a unary call that brings none; Infinity for none. */
  readonly defaultDeadlineMs: number;
  readonly log: ErrorLog;
}

import type { ReadStream, WriteStream } from "node:tty";

import type { DescService } from "@bufbuild/protobuf";
import type { CallOptions, Client, Transport } from "@connectrpc/connect";

import { connect, type Connection, targetOf } from "./connection.ts";
import type { Ending } from "./exit-codes.ts";
import { Failure } from "./failure.ts";
import { type Output, output } from "./output.ts";
import { safe } from "./text.ts";

/** Where a command reads and writes. */
export interface Terminal {
  readonly stdin: ReadStream;
  readonly stdout: WriteStream;
  readonly stderr: WriteStream;
  readonly environment: Readonly<Record<string, string | undefined>>;
}

/** The options that every command takes. */
export interface GlobalOptions {
  readonly address: string;
  readonly timeout: number;
  readonly json?: boolean;
  readonly color: boolean;
  readonly yes?: boolean;
}

/** What a command works with. */
export interface Session extends AsyncDisposable {
  readonly terminal: Terminal;
  /** How to call the service, as `lucid` was told. */
  readonly options: GlobalOptions;
  readonly output: Output;
  /** Aborts when whoever is at the terminal wants no more, or whatever read the output has gone. */
  readonly signal: AbortSignal;
  /** How it ends, where nothing is thrown. */
  ending: Ending;
  /** Takes the options, once they are known. */
  configure(options: GlobalOptions): void;
  client<S extends DescService>(service: S): Client<S>;
  transport(): Transport;
  /** Options of a call that answers once. */
  call(): CallOptions;
  /** Options of a call that lasts as long as it is wanted. */
  stream(): CallOptions;
  /** A signal for what lasts no longer than so many milliseconds; `isOver` says whether it is that time that has ended it. */
  lasting(ms: number | undefined): { readonly signal: AbortSignal; readonly isOver: () => boolean };
  /**
   * Has somebody type `name`, before what cannot be undone: `what` says what that is. `--yes` answers for them; where
   * nobody can be asked, it is needed.
   */
  confirm(what: string, name: string): Promise<void>;
  /** What Ctrl-C leaves running, as a sentence; told where it comes. */
  leaves: string | undefined;
}

/** The wire has eight digits for the time that a call may take. */
const longestTimeoutMs = 99_999_999;

/** A timer of Node that is to take longer fires at once. */
const longestTimerMs = 2 ** 31 - 1;

export function openSession(terminal: Terminal, stop: AbortSignal): Session {
  // Until the options are known: what goes wrong before is told plainly.
  let options: GlobalOptions = { address: "localhost:50051", timeout: 30_000, color: true };
  let shown = output(terminal, { json: false, color: true });
  let connection: Connection | undefined;
  const connected = () => (connection ??= connect(targetOf(options.address)));
  return {
    terminal,
    signal: stop,
    ending: "done",
    leaves: undefined,
    get options() {
      return options;
    },
    get output() {
      return shown;
    },
    configure(given) {
      options = given;
      shown = output(terminal, { json: given.json === true, color: given.color });
    },
    client: (service) => connected().client(service),
    transport: () => connected().transport,
    call: () => ({ timeoutMs: Math.min(Math.ceil(options.timeout), longestTimeoutMs), signal: stop }),
    stream: () => ({ signal: stop }),
    lasting(ms) {
      if (ms === undefined) return { signal: stop, isOver: () => false };
      const over = AbortSignal.timeout(Math.min(Math.ceil(ms), longestTimerMs));
      return { signal: AbortSignal.any([stop, over]), isOver: () => over.aborted && !stop.aborted };
    },
    async confirm(what, name) {
      if (options.yes === true) return;
      if (!terminal.stdin.isTTY || !terminal.stderr.isTTY) {
        throw new Failure(
          "refused",
          `${what}; that needs a confirmation, and nobody can be asked here`,
          "Repeat it with --yes if that is what you want.",
        );
      }
      // Read only where somebody is asked.
      const { isCancel, text } = await import("@clack/prompts");
      const typed = await text({
        message: `${safe(what)}. Type ${safe(name)} to go on`,
        input: terminal.stdin,
        output: terminal.stderr,
        signal: stop,
      });
      if (isCancel(typed)) throw new Failure("interrupted", "Nothing was changed");
      // What cannot be typed is typed as it is shown.
      if (typed !== name && typed !== safe(name)) {
        throw new Failure("refused", `That is not ${name}; nothing was changed`);
      }
    },
    async [Symbol.asyncDispose]() {
      connection?.close();
    },
  };
}

/** What a server says to a command. */
export type Reply = Buffer | number | null | RefusedReply | Reply[];

/** A command that the server refused. Its message begins with the server's code. */
export class RefusedReply extends Error {
  // What the translation of store errors knows the failures of Redis by.
  override readonly name = "ReplyError";

  /** The first word: `ERR`, `BUSYKEY`, `MOVED`. */
  get code(): string {
    return this.message.split(" ", 1)[0] ?? "";
  }
}

/** A reply that is no bulk has at most this many bytes in its line. */
const mostLineBytes = 64 * 1024;
/** No reply is larger: the longest record of a backup. */
const mostBulkBytes = 2 ** 32 - 1;

const nothing = Buffer.alloc(0);

/** Cuts what comes from a server into replies (RESP2). A large bulk is put together once, however many pieces it comes in. */
export class ReplyParser {
  readonly #onReply: (reply: Reply) => void;
  #rest: Buffer = nothing;
  #bulk: { readonly bytes: Buffer; filled: number } | undefined;
  readonly #arrays: { readonly items: Reply[]; readonly length: number }[] = [];

  constructor(onReply: (reply: Reply) => void) {
    this.#onReply = onReply;
  }

  /** Takes the next bytes. Throws where they are not what a Redis server sends. */
  push(chunk: Buffer): void {
    let bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    this.#rest = nothing;
    if (this.#bulk !== undefined) {
      const taken = chunk.copy(this.#bulk.bytes, this.#bulk.filled);
      this.#bulk.filled += taken;
      if (this.#bulk.filled < this.#bulk.bytes.length) return;
      const whole = this.#bulk.bytes;
      this.#bulk = undefined;
      bytes = chunk.subarray(taken);
      this.#complete(whole.subarray(0, -2));
    }
    this.#parse(bytes);
  }

  #parse(bytes: Buffer): void {
    let at = 0;
    while (at < bytes.length) {
      const end = bytes.indexOf("\r\n", at, "latin1");
      if (end === -1) {
        if (bytes.length - at > mostLineBytes) throw new Error("Redis sent a line that is too long");
        this.#rest = bytes.subarray(at);
        return;
      }
      const type = bytes[at];
      const line = bytes.subarray(at + 1, end);
      at = end + 2;
      if (type === 0x24 /* $ */) at = this.#startBulk(bytes, at, Number(line.toString("latin1")));
      else this.#line(type, line);
    }
  }

  #startBulk(bytes: Buffer, at: number, length: number): number {
    if (length === -1) {
      this.#complete(null);
      return at;
    }
    if (!Number.isSafeInteger(length) || length < 0 || length > mostBulkBytes) {
      throw new Error("Redis announced a reply of an impossible length");
    }
    if (at + length + 2 <= bytes.length) {
      this.#complete(bytes.subarray(at, at + length));
      return at + length + 2;
    }
    const whole = Buffer.allocUnsafeSlow(length + 2);
    this.#bulk = { bytes: whole, filled: bytes.copy(whole, 0, at) };
    return bytes.length;
  }

  #line(type: number | undefined, line: Buffer): void {
    switch (type) {
      case 0x2b /* + */:
        return this.#complete(line);
      case 0x2d /* - */:
        return this.#complete(new RefusedReply(line.toString()));
      case 0x3a /* : */:
        return this.#complete(Number(line.toString("latin1")));
      case 0x2a /* * */: {
        const length = Number(line.toString("latin1"));
        if (length === -1) return this.#complete(null);
        if (length === 0) return this.#complete([]);
        this.#arrays.push({ items: [], length });
        return;
      }
      default:
        throw new Error("Redis sent something that is no reply");
    }
  }

  #complete(reply: Reply): void {
    let done = reply;
    for (let array = this.#arrays.at(-1); array !== undefined; array = this.#arrays.at(-1)) {
      array.items.push(done);
      if (array.items.length < array.length) return;
      this.#arrays.pop();
      done = array.items;
    }
    this.#onReply(done);
  }
}

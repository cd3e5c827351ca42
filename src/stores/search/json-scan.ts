/** Where a value stands in a JSON text: from its first byte to behind its last. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

const [quote, backslash, comma, colon] = [0x22, 0x5c, 0x2c, 0x3a];
const [openBrace, closeBrace, openBracket, closeBracket] = [0x7b, 0x7d, 0x5b, 0x5d];

/**
 * Finds values in JSON without making anything of them, so that what is cut out is what was sent to the last byte: numbers of
 * any length, `1.0`, the order of names, blanks. Expects JSON that a server has written; throws where it finds none.
 */
export class JsonScan {
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** The value that is all of the text. */
  whole(): Span {
    const start = this.#skipBlanks(0);
    return { start, end: this.#endOfValue(start) };
  }

  /** The members of an object, in their order. */
  *members({ start }: Span): Generator<[name: string, value: Span]> {
    let at = this.#expect(openBrace, start);
    if (this.#bytes[at] === closeBrace) return;
    for (;;) {
      const nameEnd = this.#endOfString(at);
      const name: unknown = JSON.parse(this.text({ start: at, end: nameEnd }));
      const valueStart = this.#expect(colon, this.#skipBlanks(nameEnd));
      const end = this.#endOfValue(valueStart);
      yield [String(name), { start: valueStart, end }];
      at = this.#skipBlanks(end);
      if (this.#bytes[at] === closeBrace) return;
      at = this.#expect(comma, at);
    }
  }

  /** The elements of an array. */
  *elements({ start }: Span): Generator<Span> {
    let at = this.#expect(openBracket, start);
    if (this.#bytes[at] === closeBracket) return;
    for (;;) {
      const end = this.#endOfValue(at);
      yield { start: at, end };
      at = this.#skipBlanks(end);
      if (this.#bytes[at] === closeBracket) return;
      at = this.#expect(comma, at);
    }
  }

  /** The member of an object that has that name; undefined where there is none. */
  member(object: Span, name: string): Span | undefined {
    for (const [found, value] of this.members(object)) if (found === name) return value;
    return undefined;
  }

  /** The bytes of a value, not copied. */
  slice({ start, end }: Span): Uint8Array {
    return this.#bytes.subarray(start, end);
  }

  /** The text of a value. */
  text({ start, end }: Span): string {
    const { buffer, byteOffset } = this.#bytes;
    return Buffer.from(buffer, byteOffset + start, end - start).toString();
  }

  /** A value as JSON.parse has it: for what is known to be no large number. */
  parse(span: Span): unknown {
    return JSON.parse(this.text(span));
  }

  #skipBlanks(from: number): number {
    let at = from;
    for (; ; at++) {
      const byte = this.#bytes[at];
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return at;
    }
  }

  /** Where the value after that byte begins. */
  #expect(byte: number, at: number): number {
    if (this.#bytes[at] !== byte) throw new Error("The search server sent something that is no JSON");
    return this.#skipBlanks(at + 1);
  }

  #endOfValue(start: number): number {
    const bytes = this.#bytes;
    const first = bytes[start];
    if (first === quote) return this.#endOfString(start);
    if (first !== openBrace && first !== openBracket) return this.#endOfWord(start);
    let depth = 0;
    for (let at = start; at < bytes.length; at++) {
      const byte = bytes[at];
      if (byte === quote) at = this.#endOfString(at) - 1;
      else if (byte === openBrace || byte === openBracket) depth++;
      else if (byte === closeBrace || byte === closeBracket) {
        depth--;
        if (depth === 0) return at + 1;
      }
    }
    throw new Error("The search server sent JSON that is cut off");
  }

  /** Of a number, true, false or null. */
  #endOfWord(start: number): number {
    let at = start;
    for (; at < this.#bytes.length; at++) {
      const byte = this.#bytes[at] ?? 0;
      if (byte <= 0x20 || byte === comma || byte === closeBrace || byte === closeBracket) break;
    }
    if (at === start) throw new Error("The search server sent something that is no JSON");
    return at;
  }

  #endOfString(start: number): number {
    const bytes = this.#bytes;
    if (bytes[start] !== quote) throw new Error("The search server sent something that is no JSON");
    for (let at = start + 1; ;) {
      const end = bytes.indexOf(quote, at);
      if (end === -1) throw new Error("The search server sent JSON that is cut off");
      let escapes = 0;
      while (bytes[end - 1 - escapes] === backslash) escapes++;
      if (escapes % 2 === 0) return end + 1;
      at = end + 1;
    }
  }
}

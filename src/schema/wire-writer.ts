/**
 * Bytes kept for the next message: what is set aside for a page of 100 documents. What needs more gets a buffer of its own, so
 * that one large message pins nothing; the garbage of these made a list cost half as much again.
 */
const keptBytes = 2 * 1024 * 1024;
const kept = Buffer.allocUnsafe(keptBytes);

/** Strings up to this length are copied byte by byte, which is quicker than a call into native code. */
const shortBytes = 64;

/** Writes the protobuf wire format. The space must be there already: `open` takes the most that will be written. */
export class WireWriter {
  bytes: Buffer = kept;
  at = 0;

  /** Starts a message of at most `mostBytes`; what was written before is gone. */
  open(mostBytes: number): void {
    this.at = 0;
    this.bytes = mostBytes > keptBytes ? Buffer.allocUnsafe(mostBytes) : kept;
  }

  /** A copy of what was written. */
  close(): Buffer {
    // Writes beyond the end are dropped without a word.
    if (this.at > this.bytes.length) throw new Error("A message took more bytes than were set aside");
    const written = Buffer.from(this.bytes.subarray(0, this.at));
    this.bytes = kept;
    return written;
  }

  /** What is in the wire format already. */
  raw(bytes: Uint8Array): void {
    this.bytes.set(bytes, this.at);
    this.at += bytes.length;
  }

  byte(value: number): void {
    this.bytes[this.at++] = value;
  }

  /** A varint of 32 bits; `value` may be any int32 or uint32. */
  varint(value: number): void {
    const { bytes } = this;
    let { at } = this;
    let rest = value >>> 0;
    while (rest > 0x7f) {
      bytes[at++] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    bytes[at++] = rest;
    this.at = at;
  }

  /** A varint of 64 bits from two halves. */
  varint64(low: number, high: number): void {
    if (high === 0) {
      this.varint(low);
      return;
    }
    const { bytes } = this;
    let { at } = this;
    let [lowRest, highRest] = [low >>> 0, high >>> 0];
    while (highRest !== 0 || lowRest > 0x7f) {
      bytes[at++] = (lowRest & 0x7f) | 0x80;
      lowRest = ((lowRest >>> 7) | (highRest << 25)) >>> 0;
      highRest >>>= 7;
    }
    bytes[at++] = lowRest;
    this.at = at;
  }

  fixed32(value: number): void {
    this.bytes.writeInt32LE(value | 0, this.at);
    this.at += 4;
  }

  float(value: number): void {
    this.at = this.bytes.writeFloatLE(value, this.at);
  }

  double(value: number): void {
    this.at = this.bytes.writeDoubleLE(value, this.at);
  }

  /** Bytes `from` to `to` of `source`. Returns whether all are ASCII; long runs are not looked at and count as not. */
  copy(source: Buffer, from: number, to: number): boolean {
    const { bytes } = this;
    let { at } = this;
    if (to - from > shortBytes) {
      this.at = at + source.copy(bytes, at, from, to);
      return false;
    }
    let seen = 0;
    for (let index = from; index < to; index++) {
      const byte = source[index] as number; // the caller has checked the bounds
      seen |= byte;
      bytes[at++] = byte;
    }
    this.at = at;
    return seen < 0x80;
  }

  /** Text that is known to be ASCII. */
  ascii(text: string): void {
    this.varint(text.length);
    for (let index = 0; index < text.length; index++) this.bytes[this.at++] = text.charCodeAt(index);
  }

  /** Leaves room for the length of what follows, guessed from what it is made from. Returns where what follows starts. */
  begin(guessedBytes: number): number {
    this.at += varintBytes(guessedBytes);
    return this.at;
  }

  /** Writes the length of what was written since `begin`, moving it where the guess was wrong. */
  end(start: number, guessedBytes: number): void {
    const length = this.at - start;
    const lengthAt = start - varintBytes(guessedBytes);
    const moved = lengthAt + varintBytes(length);
    if (moved !== start) this.bytes.copyWithin(moved, start, this.at);
    this.at = lengthAt;
    this.varint(length);
    this.at += length;
  }
}

function varintBytes(value: number): number {
  if (value < 0x80) return 1;
  if (value < 0x4000) return 2;
  if (value < 0x20_0000) return 3;
  return value < 0x1000_0000 ? 4 : 5;
}

/** Deeper nesting of `*` matches nothing, as in Redis. */
const mostNesting = 1000;

/**
 * Whether a key matches a pattern as in SCAN MATCH: a port of `stringmatchlen` of Redis 7, its odd corners with it, so that a
 * pattern that is matched here selects what the server would.
 */
export function globMatches(pattern: Uint8Array, key: Uint8Array): boolean {
  // SCAN passes over a lone star, which would not match the empty key.
  if (pattern.length === 1 && pattern[0] === star) return true;
  return matches({ pattern, key, skipLonger: false }, 0, 0, 0);
}

interface Matching {
  readonly pattern: Uint8Array;
  readonly key: Uint8Array;
  /** A star's rest was found nowhere in the key: no earlier star needs to look further. */
  skipLonger: boolean;
}

const [star, question, open, close, caret, backslash, dash] = [0x2a, 0x3f, 0x5b, 0x5d, 0x5e, 0x5c, 0x2d];

function matches(matching: Matching, fromPattern: number, fromKey: number, nesting: number): boolean {
  const { pattern, key } = matching;
  if (nesting > mostNesting) return false;
  let [p, k] = [fromPattern, fromKey];
  while (p < pattern.length && k < key.length) {
    const byte = pattern[p];
    if (byte === star) {
      while (pattern[p + 1] === star) p++;
      if (p + 1 === pattern.length) return true;
      for (; k < key.length; k++) {
        if (matches(matching, p + 1, k, nesting + 1)) return true;
        if (matching.skipLonger) return false;
      }
      matching.skipLonger = true;
      return false;
    }
    if (byte === open) {
      const [end, fits] = classFits(pattern, p + 1, key[k] ?? 0);
      if (!fits) return false;
      p = end;
    } else if (byte !== question) {
      if (byte === backslash && p + 1 < pattern.length) p++;
      if (pattern[p] !== key[k]) return false;
    }
    k++;
    p++;
    if (k === key.length) {
      while (pattern[p] === star) p++;
      break;
    }
  }
  return p === pattern.length && k === key.length;
}

/** Where a class such as `[^a-c]` ends, and whether the byte is in it. `from` is behind its opening bracket. */
function classFits(pattern: Uint8Array, from: number, byte: number): [end: number, fits: boolean] {
  const negated = pattern[from] === caret;
  let p = negated ? from + 1 : from;
  let fits = false;
  for (; ; p++) {
    if (pattern[p] === backslash && p + 1 < pattern.length) {
      p++;
      if (pattern[p] === byte) fits = true;
    } else if (pattern[p] === close) break;
    else if (p >= pattern.length) {
      p--;
      break;
    } else if (pattern[p + 1] === dash && p + 2 < pattern.length) {
      const [one, other, value] = [signed(pattern[p]), signed(pattern[p + 2]), signed(byte)];
      if (value >= Math.min(one, other) && value <= Math.max(one, other)) fits = true;
      p += 2;
    } else if (pattern[p] === byte) fits = true;
  }
  return [p, fits !== negated];
}

/** As the server's compiler has it on x86: bytes from 128 come before 0. */
function signed(byte = 0): number {
  return (byte << 24) >> 24;
}

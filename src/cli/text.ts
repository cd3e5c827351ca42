/**
 * What a terminal would take for an order instead of text: control characters, marks that turn the direction of writing around, the
 * separators that some terminals break lines at, and halves of surrogate pairs, which cannot be written at all.
 */
const orders = /[\p{Cc}\p{Cs}\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]/gu;

/** Text from outside as it may be written to a terminal: on one line, and what would move the cursor shown as an escape. */
export function safe(text: string): string {
  return text.replace(orders, (order) => {
    const named = { "\n": "\\n", "\r": "\\r", "\t": "\\t" }[order];
    if (named !== undefined) return named;
    const code = order.codePointAt(0) ?? 0;
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}

/** The same for JSON, whose own escapes leave some of these as they are. It stays the same JSON. */
export function safeJson(json: string): string {
  return json.replace(orders, (order) => `\\u${(order.codePointAt(0) ?? 0).toString(16).padStart(4, "0")}`);
}

const graphemes = new Intl.Segmenter("en", { granularity: "grapheme" });
const plain = /^[\x20-\x7e]*$/;
const wide =
  /^[\p{Emoji_Presentation}\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\u3000-\u303e\uff01-\uff60\uffe0-\uffe6]|\ufe0f/u;
const unseen = /^[\p{Mn}\p{Me}\p{Cf}]+$/u;

/** How many columns of a terminal a safe text takes. */
export function widthOf(text: string): number {
  if (plain.test(text)) return text.length;
  let columns = 0;
  for (const { segment } of graphemes.segment(text)) columns += widthOfOne(segment);
  return columns;
}

function widthOfOne(grapheme: string): number {
  return unseen.test(grapheme) ? 0 : wide.test(grapheme) ? 2 : 1;
}

/** At most so many columns of a safe text; that something is missing shows. */
export function cut(text: string, columns: number): string {
  if (widthOf(text) <= columns) return text;
  let kept = "";
  let left = columns - 1;
  for (const { segment } of graphemes.segment(text)) {
    left -= widthOfOne(segment);
    if (left < 0) break;
    kept += segment;
  }
  return columns < 1 ? "" : `${kept}…`;
}

/** Fills a safe text up to so many columns. */
export function pad(text: string, columns: number, align: "left" | "right" = "left"): string {
  const space = " ".repeat(Math.max(0, columns - widthOf(text)));
  return align === "left" ? text + space : space + text;
}

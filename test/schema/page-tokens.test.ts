import fc from "fast-check";
import { expect, test } from "vitest";

import { isReason } from "../../src/errors.ts";
import { pageTokens } from "../../src/schema/page-tokens.ts";

const tokens = pageTokens("a secret");

test("a position comes back from its token, on every replica with the same secret", () => {
  fc.assert(
    fc.property(fc.uint8Array(), fc.string({ minLength: 1, unit: "grapheme" }), (query, position) => {
      expect(pageTokens("a secret").decode(query, tokens.encode(query, position))).toBe(position);
    }),
    { seed: 1 },
  );
  expect(tokens.decode(new Uint8Array(0), "")).toBeUndefined();
});

test("a token that was changed, made up or is of another query is refused", () => {
  const query = Buffer.from("query");
  const token = tokens.encode(query, "position");
  const changed = Array.from(
    token,
    (letter, at) => `${token.slice(0, at)}${letter === "A" ? "B" : "A"}${token.slice(at + 1)}`,
  );
  for (const wrong of [...changed, "x", `${token}=`, `${token}A`, pageTokens("other").encode(query, "position")]) {
    expect(
      refusal(() => tokens.decode(query, wrong)),
      wrong,
    ).toBe(true);
  }
  expect(refusal(() => tokens.decode(Buffer.from("other"), token))).toBe(true);
});

function refusal(decode: () => unknown): boolean {
  try {
    decode();
    return false;
  } catch (error) {
    return isReason(error, "PAGE_TOKEN_INVALID");
  }
}

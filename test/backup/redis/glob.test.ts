import fc from "fast-check";
import { Redis } from "ioredis";
import { expect, test } from "vitest";

import { globMatches } from "../../../src/backup/redis/glob.ts";
import { storeAddresses, uniqueName } from "../../support/stores.ts";

test("patterns match as the server has them, in all their odd corners", async () => {
  const client = new Redis(storeAddresses().redisUri, { protocol: 2 });
  // Its own corner of a shared server: the pattern is matched against what stands behind the prefix of a subscriber's channel.
  const alphabet = ["a", "b", "c", "*", "?", "[", "]", "^", "-", "\\", "{", "é"];
  const text = fc.array(fc.constantFrom(...alphabet), { maxLength: 8 }).map((parts) => parts.join(""));
  try {
    await fc.assert(
      fc.asyncProperty(text, text, async (pattern, key) => {
        const name = uniqueName("glob");
        // In the pattern the prefix has nothing special.
        await client.set(`${name}${key}`, "");
        const found: string[] = [];
        let cursor = "0";
        do {
          const [next, keys] = await client.scan(cursor, "MATCH", `${name}${pattern}`, "COUNT", 1000);
          cursor = next;
          found.push(...keys);
        } while (cursor !== "0");
        await client.del(`${name}${key}`);
        const matches = globMatches(Buffer.from(`${name}${pattern}`), Buffer.from(`${name}${key}`));
        expect([pattern, key, matches]).toEqual([pattern, key, found.length === 1]);
      }),
      { seed: 1, numRuns: 500 },
    );
  } finally {
    client.disconnect();
  }
});

test("a lone star matches the empty key, and a pattern of many stars does not take for ever", () => {
  expect(globMatches(Buffer.from("*"), Buffer.from(""))).toBe(true);
  expect(globMatches(Buffer.from("a*".repeat(50)), Buffer.from("a".repeat(10_000)))).toBe(true);
  expect(globMatches(Buffer.from(`${"a*".repeat(50)}b`), Buffer.from("a".repeat(10_000)))).toBe(false);
  expect(globMatches(Buffer.from([0x5b, 0x80, 0x2d, 0xff, 0x5d]), Buffer.from([0x90]))).toBe(true);
});

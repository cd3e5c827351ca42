import fc from "fast-check";
import { expect, test } from "vitest";

import { RefusedReply, type Reply, ReplyParser } from "../../../src/backup/redis/reply-parser.ts";

const leaf = fc.oneof(
  fc.uint8Array({ maxLength: 300 }).map((bytes): Reply => Buffer.from(bytes)),
  fc.integer().map((number): Reply => number),
  fc.constant<Reply>(null),
  fc.constant<Reply>(new RefusedReply("ERR no")),
);
const { reply } = fc.letrec<{ reply: Reply }>((tie) => ({
  reply: fc.oneof({ maxDepth: 3 }, leaf, fc.array(tie("reply"), { maxLength: 5 })),
}));

function encoded(value: Reply): Buffer {
  if (value === null) return Buffer.from("$-1\r\n");
  if (typeof value === "number") return Buffer.from(`:${value}\r\n`);
  if (value instanceof RefusedReply) return Buffer.from(`-${value.message}\r\n`);
  if (Buffer.isBuffer(value)) return Buffer.concat([Buffer.from(`$${value.length}\r\n`), value, Buffer.from("\r\n")]);
  return Buffer.concat([Buffer.from(`*${value.length}\r\n`), ...value.map(encoded)]);
}

test("replies are the same however they are cut on their way", () => {
  fc.assert(
    fc.property(
      fc.array(reply, { maxLength: 20 }),
      fc.infiniteStream(fc.integer({ min: 1, max: 40 })),
      (replies, cuts) => {
        const bytes = Buffer.concat(replies.map(encoded));
        const found: Reply[] = [];
        const parser = new ReplyParser((one) => found.push(one));
        for (let at = 0; at < bytes.length;) {
          const length = cuts.next().value as number;
          parser.push(bytes.subarray(at, at + length));
          at += length;
        }
        expect(found).toEqual(replies);
      },
    ),
    { seed: 2, numRuns: 300 },
  );
});

test("what is no reply is refused", () => {
  for (const nonsense of ["HTTP/1.1 400 Bad Request\r\n", "$x\r\n", "$-5\r\n", "a".repeat(70_000)]) {
    expect(() => new ReplyParser(() => {}).push(Buffer.from(nonsense))).toThrow("Redis");
  }
});

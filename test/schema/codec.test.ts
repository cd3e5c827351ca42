import { create, fromBinary, type Message, toBinary } from "@bufbuild/protobuf";
import { TimestampSchema } from "@bufbuild/protobuf/wkt";
import { Binary, deserialize, Double, Long, ObjectId, serialize } from "bson";
import fc from "fast-check";
import { expect, test } from "vitest";

import { HardwareWalletType, UserRole, UserSchema, UserStatus } from "../../gen/lucid/repository/v1/user_pb.ts";
import { reasonOf } from "../../src/errors.ts";
import { codecFor } from "../../src/schema/codec.ts";
import { everyKind, messagesOf } from "./every-kind.ts";

const Kinds = everyKind();
const kinds = codecFor(Kinds);
const users = codecFor(UserSchema);
const seed = 20_261;

/** A message of test.Kinds from the fields that matter. */
function kind(init: Record<string, unknown>): Message {
  return create(Kinds, init);
}

test("any message comes back from its document", () => {
  fc.assert(
    fc.property(messagesOf(Kinds), (message) => {
      expect(kinds.decode(kinds.encode(message))).toStrictEqual(message);
    }),
    { seed, numRuns: 300 },
  );
});

test("raw bytes make the same message whatever the order of their fields", () => {
  fc.assert(
    fc.property(messagesOf(Kinds), fc.infiniteStream(fc.nat()), (message, order) => {
      const entries = Object.entries(kinds.encode(message));
      const shuffled = entries
        .map((entry) => ({ entry, at: order.next().value as number }))
        .toSorted((left, right) => left.at - right.at)
        .map(({ entry }) => entry);
      const bytes = kinds.transcoder.message(
        serialize({ _id: new ObjectId(), ...Object.fromEntries(shuffled), unknown: { a: [1] } }),
      );
      expect(fromBinary(Kinds, new Uint8Array(bytes))).toStrictEqual(message);
    }),
    { seed, numRuns: 200 },
  );
});

test("messages embedded in another are those that were stored, in order", () => {
  fc.assert(
    fc.property(fc.array(messagesOf(Kinds), { maxLength: 5 }), (messages) => {
      const raw = messages.map((message) => serialize(kinds.encode(message)));
      const field = Kinds.fields.find(({ name }) => name === "list_itself");
      const bytes = kinds.transcoder.embedded(field?.number ?? 0, raw);
      expect(fromBinary(Kinds, new Uint8Array(bytes))).toStrictEqual(kind({ listItself: messages }));
      const tails = messages.map((_, index) => toBinary(Kinds, kind({ oneString: `tail ${index}` })));
      const tailed = kinds.transcoder.embedded(field?.number ?? 0, raw, undefined, tails);
      const expected = messages.map((message, index) => ({ ...message, oneString: `tail ${index}` }));
      expect(fromBinary(Kinds, new Uint8Array(tailed))).toStrictEqual(kind({ listItself: expected }));
    }),
    { seed, numRuns: 100 },
  );
});

test("a document larger than what is kept for one comes back too", () => {
  const message = kind({ oneString: "ü".repeat(1_000_000), oneBytes: new Uint8Array(1_000_000).fill(7) });
  expect(kinds.decode(kinds.encode(message))).toStrictEqual(message);
  expect(kinds.decode(kinds.encode(kind({ oneBool: true })))).toStrictEqual(kind({ oneBool: true }));
});

test("a message is stored as people would write it", () => {
  const message = create(UserSchema, {
    userId: "u1",
    email: "a@example.com",
    role: UserRole.NODE_OPERATOR,
    status: UserStatus.PENDING_VERIFICATION,
    profile: { displayName: "Ada", socialLinks: { code: "https://example.com" } },
    hardwareWallet: { type: HardwareWalletType.LEDGER },
    totalStorageUsed: 2n ** 62n + 1n,
    totalPootScore: 1,
    nodeCount: 0,
    metadata: { tags: ["a", 1, 1.5, null, true], nested: { $where: "1", "a.b": {} } },
    createdAt: { seconds: 1_700_000_000n, nanos: 123_000_000 },
    revision: 3n,
    etag: "ignored",
  });
  const document = users.encode(message);
  expect(deserialize(serialize(document), { promoteValues: false })).toEqual(
    deserialize(
      serialize({
        user_id: "u1",
        email: "a@example.com",
        role: "NODE_OPERATOR",
        status: "PENDING_VERIFICATION",
        profile: { display_name: "Ada", social_links: { code: "https://example.com" } },
        hardware_wallet: { type: "LEDGER" },
        email_verified: false,
        tron_verified: false,
        is_node_operator: false,
        node_count: 0,
        total_poot_score: new Double(1),
        total_sessions: Long.ZERO,
        total_chunks_uploaded: Long.ZERO,
        total_storage_used: Long.fromString("4611686018427387905"),
        failed_login_attempts: 0,
        metadata: { tags: ["a", 1, 1.5, null, true], nested: { $where: "1", "a.b": {} } },
        created_at: new Date(1_700_000_000_123),
        revision: Long.fromNumber(3),
      }),
      { promoteValues: false },
    ),
  );
  expect(users.decode(document)).toStrictEqual(create(UserSchema, { ...message, etag: '"3"' }));
});

test("a time loses what is finer than a millisecond, towards the past", () => {
  const time = (seconds: bigint, nanos: number) => create(TimestampSchema, { seconds, nanos });
  const stored = (seconds: bigint, nanos: number) =>
    (kinds.encode(kind({ oneTimestamp: time(seconds, nanos) })) as { one_timestamp: Date }).one_timestamp.getTime();
  expect(stored(5n, 1_999_999)).toBe(5001);
  expect(stored(-1n, 999_999_999)).toBe(-1);
});

test.for([
  ["an int where a long belongs", { one_int64: 7 }, { oneInt64: 7n }],
  ["a whole double where a long belongs", { one_int64: new Double(2 ** 40) }, { oneInt64: 2n ** 40n }],
  ["a negative double where an int belongs", { one_sint32: new Double(-3) }, { oneSint32: -3 }],
  ["a long where a double belongs", { one_double: Long.fromNumber(9) }, { oneDouble: 9 }],
  ["null where anything belongs", { one_string: null, list_int32: null, map_bool: null, one_itself: null }, {}],
  ["the number of an enum's value", { one_color: 1 }, { oneColor: 1 }],
  ["an alias of an enum's value", { one_color: "CRIMSON" }, { oneColor: 1 }],
  [
    "what JSON has no type for in free data",
    {
      one_struct: {
        big: Long.fromString("9007199254740993"),
        small: Long.fromNumber(5),
        endless: -Infinity,
        time: new Date(0),
        id: new ObjectId("0123456789abcdef01234567"),
        bytes: new Binary(Buffer.from("hi")),
      },
    },
    {
      oneStruct: {
        big: "9007199254740993",
        small: 5,
        endless: "-Infinity",
        time: "1970-01-01T00:00:00.000Z",
        id: "0123456789abcdef01234567",
        bytes: "aGk=",
      },
    },
  ],
] as const)("%s is understood", ([, document, init]) => {
  expect(kinds.decode(document)).toStrictEqual(kind(init));
});

test.for([
  ["a string in a number", { one_int32: "1" }, "one_int32"],
  ["a fraction in a whole number", { one_int64: 1.5 }, "one_int64"],
  ["a number beyond its type", { one_int32: Long.fromNumber(2 ** 31) }, "one_int32"],
  ["a negative number without a sign", { one_uint32: -1 }, "one_uint32"],
  ["a negative long without a sign", { one_uint64: Long.fromNumber(-1) }, "one_uint64"],
  ["a number in a string", { one_string: 1 }, "one_string"],
  ["a number in a boolean", { one_bool: 1 }, "one_bool"],
  ["a string in a time", { one_timestamp: "2026-01-01" }, "one_timestamp"],
  ["a time beyond the year 9999", { one_timestamp: new Date(253_402_300_800_000) }, "one_timestamp"],
  ["a string in bytes", { one_bytes: "x" }, "one_bytes"],
  ["a UUID in bytes", { one_bytes: new Binary(Buffer.alloc(16), 4) }, "one_bytes"],
  ["an unknown name in an enum", { one_color: "BLUE" }, "one_color"],
  ["a document in an enum", { one_color: {} }, "one_color"],
  ["a document in a list", { list_int32: {} }, "list_int32"],
  ["a null in a list", { list_string: ["a", null] }, "list_string"],
  ["an array in a map", { map_int32: [1] }, "map_int32"],
  ["a word as the key of numbers", { keys_int32: { one: 1 } }, "keys_int32"],
  ["a word as the key of booleans", { keys_bool: { yes: 1 } }, "keys_bool"],
  ["a string in a message", { one_itself: "x" }, "one_itself"],
  [
    "a string deep inside",
    { one_itself: { list_itself: [{}, { one_int32: "x" }] } },
    "one_itself.list_itself.one_int32",
  ],
  ["an expression in free data", { one_struct: { a: /x/ } }, "one_struct"],
  ["a document in a wrapper", { one_string_value: {} }, "one_string_value.value"],
] as const)("%s is damage that names the field", ([, document, field]) => {
  const bytes = serialize(document);
  const failure = reasonOf(thrownBy(() => kinds.transcoder.message(bytes)));
  expect(failure).toMatchObject({ reason: "DOCUMENT_DAMAGED", metadata: { field } });
});

test("text that is not UTF-8 is damage, short or long", () => {
  for (const text of ["abc", "abc".repeat(100)]) {
    const bytes = Buffer.from(serialize({ one_string: text }));
    bytes[bytes.indexOf(text) + 1] = 0xff;
    expect(reasonOf(thrownBy(() => kinds.decode(bytes)))).toMatchObject({ metadata: { field: "one_string" } });
  }
});

test("bytes that are no document are damage or another message, never a crash or a read beyond the end", () => {
  fc.assert(
    fc.property(
      messagesOf(Kinds),
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 }),
      (message, flips) => {
        const bytes = Buffer.from(serialize(kinds.encode(message)));
        for (const [at, value] of flips) bytes[at % bytes.length] = value;
        try {
          fromBinary(Kinds, kinds.transcoder.message(bytes));
        } catch (error) {
          expect(reasonOf(error)?.reason).toBe("DOCUMENT_DAMAGED");
        }
      },
    ),
    { seed, numRuns: 2000 },
  );
});

test.for([
  ["a whole number that no document holds", { oneUint64: 2n ** 63n }, "one_uint64"],
  [
    "a time that no document holds",
    { oneItself: { oneTimestamp: { seconds: 2n ** 50n, nanos: 0 } } },
    "one_itself.one_timestamp",
  ],
  ["a null character in a name", { oneStruct: { a: { "b\0c": 1 } } }, "one_struct"],
  [
    "a name in free data that the driver takes for its own",
    { oneStruct: { a: [{ _bsontype: "Long" }] } },
    "one_struct",
  ],
  ["a number in free data that JSON does not have", { oneStruct: { a: [Number.NaN] } }, "one_struct"],
  ["a null character in a key", { mapInt32: { "\0": 1 } }, "map_int32"],
  [
    "data that are nested too deep",
    { oneStruct: JSON.parse(`${'{"a":'.repeat(500)}1${"}".repeat(500)}`) as object },
    "one_struct",
  ],
  [
    "lists that are nested too deep",
    { oneStruct: { a: JSON.parse(`${"[".repeat(500)}${"]".repeat(500)}`) as object } },
    "one_struct",
  ],
] as const)("%s is refused with the field's path", ([, init, field]) => {
  const failure = reasonOf(thrownBy(() => kinds.encode(kind(init))));
  expect(failure).toMatchObject({ reason: "BAD_REQUEST", metadata: { fields: field } });
});

test("a message without lists of numbers takes as many bytes as protobuf itself writes", () => {
  const message = create(UserSchema, {
    userId: "u",
    email: "e@example.com",
    revision: 1n,
    etag: '"1"',
    metadata: { a: [{}] },
  });
  const bytes = users.transcoder.message(serialize(users.encode(message)));
  expect(bytes.length).toBe(toBinary(UserSchema, message).length);
});

test("what another program has stored under a name that the driver takes for its own is read all the same", () => {
  const metadata = { a: [{ _bsontype: "Long", b: { _bsontype: 1 } }] };
  const stored = { user_id: "u", created_at: new Date(0), metadata };
  expect(users.decode(stored)).toMatchObject({ userId: "u", createdAt: { seconds: 0n }, metadata });
});

function thrownBy(run: () => unknown): unknown {
  try {
    run();
  } catch (error) {
    return error;
  }
  throw new Error("Nothing was thrown");
}

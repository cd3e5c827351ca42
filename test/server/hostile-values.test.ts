import { randomUUID } from "node:crypto";

import { type DescMessage, type DescMethod, fromJson, type Message, ScalarType } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";

import { type TestApp, testApp } from "../support/app.ts";
import { callWith, callWithMessage, filledRequest, platformServices } from "../support/requests.ts";
import { type StoredIds, storedIds } from "../support/stored-ids.ts";

/** Lines of the log that tell of an error. */
const failures: string[] = [];
let app: TestApp;
let ids: StoredIds;
beforeAll(async () => {
  const isFailure = (line: string) => (JSON.parse(line) as { level: number }).level >= 50; // pino's error
  app = await testApp({}, { logTo: (line) => void (isFailure(line) && failures.push(line)) });
  ids = new Map();
  // What names something else comes after that.
  for (const method of [...creating, ...creating]) {
    await callWith(app.transports.grpc, method, requestOf(method)).catch(unlessFault);
    ids = await storedIds(app.mongodb.db(app.config.mongodb.database));
  }
});
afterAll(() => app[Symbol.asyncDispose]());

const methods = platformServices()
  .filter(({ typeName }) => typeName.startsWith("lucid.repository."))
  .flatMap(({ methods: own }) => own)
  .filter(({ methodKind }) => methodKind === "unary");
const creating = methods.filter(({ name }) => /^(Create|Register|Record|Establish)/.test(name));

/** Codes that say that the service is at fault or away. */
const faults = new Set([Code.Internal, Code.Unknown, Code.DataLoss, Code.Unimplemented, Code.Unavailable]);

function unlessFault(error: unknown): void {
  if (faults.has(ConnectError.from(error).code)) throw error;
}

/** A request about what is stored; one that creates something by an id that is taken stores nothing that others would add up. */
function requestOf(method: DescMethod) {
  return filledRequest(method.input, (field) => {
    if (field.name === "request_id") return randomUUID();
    if (["etag", "page_token", "order_by"].includes(field.name)) return null;
    const id = ids.get(field.name.replace(/_ids$/, "_id"));
    if (id === undefined) return undefined;
    return field.fieldKind === "list" ? [id] : id;
  });
}

const times = [
  { seconds: 2n ** 63n - 1n, nanos: 999_999_999 },
  { seconds: -(2n ** 63n), nanos: -1 },
  { seconds: 253_402_300_800n, nanos: 0 },
  { seconds: -62_135_596_801n, nanos: 2 ** 31 - 1 },
];
const whole = {
  int32: [2 ** 31 - 1, -(2 ** 31)],
  uint32: [2 ** 32 - 1],
  int64: [2n ** 63n - 1n, -(2n ** 63n)],
  uint64: [2n ** 64n - 1n],
};
const numbers: Partial<Record<ScalarType, readonly unknown[]>> = {
  [ScalarType.INT32]: whole.int32,
  [ScalarType.UINT32]: whole.uint32,
  [ScalarType.INT64]: whole.int64,
  [ScalarType.UINT64]: whole.uint64,
  [ScalarType.DOUBLE]: [Number.NaN, Infinity, -Number.MAX_VALUE],
};

/** A field of a message, at any depth, and what it may be set to. */
interface Place {
  readonly path: string;
  readonly values: readonly unknown[];
  readonly set: (value: unknown) => void;
}

function placesIn(schema: DescMessage, message: Message, path = ""): Place[] {
  const members = message as Message & Record<string, unknown>; // its fields by their names
  return schema.fields.flatMap((field): Place[] => {
    const at = path + field.name;
    if (field.oneof !== undefined || field.fieldKind === "map") return [];
    const value = members[field.localName];
    const set = (other: unknown) => void (members[field.localName] = other);
    const { message: inner } = field;
    if (inner === undefined) {
      const values = field.fieldKind === "scalar" ? numbers[field.scalar] : undefined;
      return values === undefined ? [] : [{ path: at, values, set }];
    }
    if (["google.protobuf.Timestamp", "google.protobuf.Duration"].includes(inner.typeName)) {
      const values = times.map((time) => ({ $typeName: inner.typeName, ...time }));
      return field.fieldKind === "list" ? [] : [{ path: at, values, set }];
    }
    if (inner.typeName.startsWith("google.")) return [];
    const [first] = (field.fieldKind === "list" ? value : [value]) as (Message | undefined)[]; // what the field is
    return first === undefined ? [] : placesIn(inner, first, `${at}.`);
  });
}

test.for(methods.map((method): [string, DescMethod] => [`${method.parent.name}.${method.name}`, method]))(
  "%s takes or refuses any time and number, and breaks at none",
  async ([, method]) => {
    const broken: string[] = [];
    const placed = () => {
      const message = fromJson(method.input, requestOf(method));
      return { message, places: placesIn(method.input, message) };
    };
    for (const [index, { path, values }] of placed().places.entries()) {
      for (const value of values) {
        const { message, places } = placed();
        places[index]?.set(value);
        const error = await callWithMessage(app.transports.grpc, method, message).then(
          () => undefined,
          (cause: unknown) => ConnectError.from(cause),
        );
        if (error !== undefined && faults.has(error.code)) broken.push(`${path} ${String(value)}: ${error.message}`);
      }
    }
    expect(broken).toEqual([]);
    expect(failures.splice(0)).toEqual([]);
  },
);

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";

import {
  create,
  createFileRegistry,
  type DescField,
  type DescMessage,
  type DescMethod,
  type DescMethodStreaming,
  type DescMethodUnary,
  type DescService,
  fromBinary,
  fromJson,
  getOption,
  isMessage,
  type JsonObject,
  type JsonValue,
  type Message,
  ScalarType,
  toJson,
} from "@bufbuild/protobuf";
import { DurationSchema, FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import {
  field as fieldRules,
  type FieldRules,
  Ignore,
  type StringRules,
} from "@bufbuild/protovalidate/gen/buf/validate/validate_pb.js";
import type { Transport } from "@connectrpc/connect";
import fc from "fast-check";

import { output_only as outputOnly } from "../../gen/lucid/options/v1/options_pb.ts";
import { WatchEventType, WatchEventTypeSchema } from "../../gen/lucid/repository/v1/watch_pb.ts";
import { tronAddress } from "../repository/support.ts";

/** The services of the platform's own, from the descriptors that reflection serves. */
export function platformServices(): readonly DescService[] {
  const file = join(import.meta.dirname, "..", "..", "gen", "descriptors.binpb");
  const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(file)));
  return [...registry].filter(
    (found) => found.kind === "service" && found.typeName.startsWith("lucid."),
  ) as DescService[]; // filtered
}

/** Gives a field its value in place of one that fits its rules; undefined leaves that one, null leaves the field out. */
export type Choose = (field: DescField, path: string) => JsonValue | undefined;

const deepest = 8;

/** A request, as JSON, in which every field that a caller may set has a value that fits its rules. */
export function filledRequest(
  message: DescMessage,
  choose: Choose = () => undefined,
  path = "",
  depth = 0,
): JsonObject {
  const json: JsonObject = {};
  for (const field of fieldsOf(message)) {
    const at = joined(path, field.name);
    const chosen = choose(field, at);
    if (chosen === null) continue;
    const value = chosen ?? filledField(field, choose, at, depth);
    if (value !== undefined) json[field.name] = value;
  }
  return json;
}

/**
 * What a caller may set: of members that exclude each other the first, nothing that only the service sets but for ids, which say
 * what an update is about.
 */
function fieldsOf(message: DescMessage): DescField[] {
  return message.fields.filter(
    (field) =>
      (field.oneof === undefined || field.oneof.fields[0] === field) &&
      (!getOption(field, outputOnly) || field.name.endsWith("_id")),
  );
}

function filledField(field: DescField, choose: Choose, path: string, depth: number): JsonValue | undefined {
  // What holds itself is not filled again.
  if (depth > deepest || field.message === field.parent) return undefined;
  const rules = rulesOf(field);
  if (field.fieldKind === "list") {
    const count = rules?.type.case === "repeated" ? Number(rules.type.value.minItems) : 0;
    const of = rules?.type.case === "repeated" ? rules.type.value.items : undefined;
    return Array.from({ length: Math.max(1, count) }, (_, index) =>
      filledOne(field, of, choose, `${path}[${index}]`, depth),
    );
  }
  if (field.fieldKind === "map") {
    const of = rules?.type.case === "map" ? rules.type.value : undefined;
    const key = field.mapKey === ScalarType.STRING ? filledText(field, of?.keys) : "1";
    return { [key]: filledOne(field, of?.values, choose, `${path}["${key}"]`, depth) };
  }
  return filledOne(field, rules, choose, path, depth);
}

function filledOne(
  field: DescField,
  rules: FieldRules | undefined,
  choose: Choose,
  path: string,
  depth: number,
): JsonValue {
  if (rules?.type.case === "duration") return durationOf(BigInt(boundsOf(rules).least ?? 60_000_000_000));
  // What has expired is removed.
  if (field.name.startsWith("expire") && field.message !== undefined) return "2126-01-02T03:04:05Z";
  if (field.message !== undefined) return filledMessage(field.message, choose, path, depth);
  if (field.enum !== undefined) {
    const excluded = rules?.type.case === "enum" ? rules.type.value.notIn : [];
    return field.enum.values.find(({ number }) => number !== 0 && !excluded.includes(number))?.number ?? 0;
  }
  switch (field.scalar) {
    case ScalarType.STRING:
      return filledText(field, rules);
    case ScalarType.BOOL:
      return false;
    case ScalarType.BYTES: {
      const { minLen = 0n, len = 0n } = rules?.type.case === "bytes" ? rules.type.value : {};
      return Buffer.alloc(Math.max(1, Number(minLen), Number(len)), 7).toString("base64");
    }
    default:
      return leastOf(rules);
  }
}

function filledMessage(message: DescMessage, choose: Choose, path: string, depth: number): JsonValue {
  switch (message.typeName) {
    case "google.protobuf.Timestamp":
      return "2026-01-02T03:04:05Z";
    case "google.protobuf.Duration":
      return "60s";
    case "google.protobuf.FieldMask":
      return "";
    case "google.protobuf.Struct":
      return { a: 1 };
    case "google.protobuf.Value":
      return 1;
    default:
      return filledRequest(message, choose, path, depth + 1);
  }
}

function filledText(field: DescField, rules: FieldRules | undefined): string {
  if (/(^|_)tron_address$|^(from|to)_address$/.test(field.name)) return tronAddress();
  if (/^(page_token|etag|order_by|watch_token|resume_token|token)$/.test(field.name)) return "";
  const of = rules?.type.case === "string" ? rules.type.value : undefined;
  if (of?.wellKnown.case === "uuid") return randomUUID();
  if (of?.wellKnown.case === "uri") return "https://example.com/a";
  if (of?.wellKnown.case === "email" || field.name === "email") return `${randomUUID()}@example.com`;
  const [first] = of?.in ?? [];
  if (first !== undefined) return first;
  if (of !== undefined && of.pattern !== "") return textFor(of.pattern);
  return "x".repeat(Math.max(1, Number(of?.minLen ?? 0), Number(of?.len ?? 0), Number(of?.minBytes ?? 0)));
}

/** Texts that are left, by their patterns: making them is dear, whether it is one or a hundred. */
const texts = new Map<string, string[]>();
let samples = 0;

/** Text that a pattern allows, another one each time, the same ones in each run. */
function textFor(pattern: string): string {
  let left = texts.get(pattern) ?? [];
  if (left.length === 0) left = fc.sample(fc.stringMatching(new RegExp(pattern)), { numRuns: 100, seed: samples++ });
  texts.set(pattern, left);
  return left.pop() ?? "";
}

/** A whole number that the rules allow. */
function leastOf(rules: FieldRules | undefined): number {
  const { least } = boundsOf(rules);
  return Math.max(1, Number(least ?? 1));
}

/** The first values beyond the bounds of a number, and the least within; of a Duration in nanoseconds. */
function boundsOf(rules: FieldRules | undefined): {
  readonly least?: number | bigint | undefined;
  readonly below?: number | bigint | undefined;
  readonly above?: number | bigint | undefined;
} {
  const of = rules?.type.value;
  if (of === undefined || !("greaterThan" in of) || !("lessThan" in of)) return {};
  const { case: more, value: from } = of.greaterThan;
  const { case: less, value: to } = of.lessThan;
  const [first, last] = [asNumber(from), asNumber(to)];
  const step = (value: number | bigint, by: 1 | -1) => (typeof value === "bigint" ? value + BigInt(by) : value + by);
  return {
    ...(first !== undefined && {
      least: more === "gt" ? step(first, 1) : first,
      below: more === "gt" ? first : step(first, -1),
    }),
    ...(last !== undefined && { above: less === "lt" ? last : step(last, 1) }),
  };
}

function asNumber(bound: unknown): number | bigint | undefined {
  if (typeof bound === "number" || typeof bound === "bigint") return bound;
  if (!isMessage(bound, DurationSchema)) return undefined;
  return bound.seconds * 1_000_000_000n + BigInt(bound.nanos);
}

function rulesOf(field: DescField): FieldRules | undefined {
  const rules = getOption(field, fieldRules);
  return rules.ignore === Ignore.ALWAYS ? undefined : rules;
}

function joined(path: string, name: string): string {
  return path === "" ? name : `${path}.${name}`;
}

/** One rule of a request's proto, broken. */
export interface Broken {
  /** Path of the field, as a refusal names it. */
  readonly path: string;
  /** Path of the field that gets `value`: the list, where the rule is about its items. */
  readonly at: string;
  readonly rule: string;
  /** What breaks it; null leaves the field out. */
  readonly value: JsonValue;
}

/** Each rule of each field that a request has, broken once. Rules in CEL are not among them: only their own test knows how. */
export function brokenRules(message: DescMessage, path = "", seen: readonly DescMessage[] = []): Broken[] {
  if (seen.includes(message)) return [];
  return fieldsOf(message).flatMap((field) => {
    const at = joined(path, field.name);
    const rules = rulesOf(field);
    const own = rules === undefined ? [] : brokenField(field, rules, at);
    const inner = field.message;
    if (inner === undefined || inner.typeName.startsWith("google.") || areCheckedApart(rules)) return own;
    const element = field.fieldKind === "list" ? `${at}[0]` : at;
    return field.fieldKind === "map" ? own : [...own, ...brokenRules(inner, element, [...seen, message])];
  });
}

/** Whether the items of a list are checked by the handler, which tells of each in its answer. */
function areCheckedApart(rules: FieldRules | undefined): boolean {
  return rules?.type.case === "repeated" && rules.type.value.items?.ignore === Ignore.ALWAYS;
}

function brokenField(field: DescField, rules: FieldRules, path: string): Broken[] {
  const required = rules.required ? [{ path, at: path, rule: "required", value: null }] : [];
  const skipsZero = rules.ignore === Ignore.IF_ZERO_VALUE;
  const { type } = rules;
  if (type.case === "repeated") {
    const { minItems, maxItems, items } = type.value;
    const one = filledOne(field, items, () => undefined, path, deepest);
    return [
      ...required,
      ...(minItems > 0n && !skipsZero
        ? [{ path, at: path, rule: "min_items", value: Array(Number(minItems) - 1).fill(one) }]
        : []),
      ...(maxItems > 0n ? [{ path, at: path, rule: "max_items", value: Array(Number(maxItems) + 1).fill(one) }] : []),
      ...brokenOne(items, `${path}[0]`, false).map((item) => ({ ...item, at: path, value: [item.value] })),
    ];
  }
  if (type.case === "map") {
    const most = Number(type.value.maxPairs);
    const one = filledOne(field, type.value.values, () => undefined, path, deepest);
    const many = Object.fromEntries(Array.from({ length: most + 1 }, (_, index) => [`k${index}`, one]));
    return [...required, ...(most > 0 ? [{ path, at: path, rule: "max_pairs", value: many }] : [])];
  }
  return [...required, ...brokenOne(rules, path, skipsZero)];
}

function brokenOne(rules: FieldRules | undefined, path: string, skipsZero: boolean): Broken[] {
  const type = rules?.type;
  const broken = (rule: string, value: JsonValue): Broken => ({ path, at: path, rule, value });
  switch (type?.case) {
    case "string":
      return brokenText(type.value, skipsZero).map(([rule, value]) => broken(rule, value));
    case "bytes": {
      const { minLen, maxLen } = type.value;
      const bytes = (length: bigint) => Buffer.alloc(Number(length)).toString("base64");
      return [
        ...(minLen > (skipsZero ? 1n : 0n) ? [broken("min_len", bytes(minLen - 1n))] : []),
        ...(maxLen > 0n ? [broken("max_len", bytes(maxLen + 1n))] : []),
      ];
    }
    case "enum":
      return [
        ...(type.value.definedOnly ? [broken("defined_only", 9999)] : []),
        ...type.value.notIn.filter((number) => number !== 0 || !skipsZero).map((number) => broken("not_in", number)),
      ];
    default:
      return brokenNumber(rules, skipsZero).map(([rule, value]) => broken(rule, value));
  }
}

function brokenText(rules: StringRules, skipsZero: boolean): [string, string][] {
  const { minLen, maxLen, maxBytes, pattern, notContains, wellKnown } = rules;
  const found: [string, string][] = [];
  if (minLen > (skipsZero ? 1n : 0n)) found.push(["min_len", "x".repeat(Number(minLen) - 1)]);
  if (maxLen > 0n) found.push(["max_len", "x".repeat(Number(maxLen) + 1)]);
  if (maxBytes > 0n) found.push(["max_bytes", "ä".repeat(Number(maxBytes) / 2 + 1)]);
  if (notContains !== "") found.push(["not_contains", `x${notContains}`]);
  if (wellKnown.case !== undefined) found.push([wellKnown.case, "neither this nor that"]);
  if (pattern !== "") {
    const wrong = ["\0", "neither this nor that!", "$where", "ä"].find((text) => !new RegExp(pattern).test(text));
    if (wrong !== undefined) found.push(["pattern", wrong]);
  }
  return found;
}

function brokenNumber(rules: FieldRules | undefined, skipsZero: boolean): [string, JsonValue][] {
  const { below, above } = boundsOf(rules);
  const isDuration = rules?.type.case === "duration";
  return Object.entries({ below, above }).flatMap(([rule, value]): [string, JsonValue][] => {
    if (value === undefined || (skipsZero && Number(value) === 0)) return [];
    if (isDuration) return [[rule, durationOf(BigInt(value))]];
    return [[rule, typeof value === "bigint" ? String(value) : value]];
  });
}

function durationOf(nanoseconds: bigint): JsonValue {
  const second = 1_000_000_000n;
  const duration = create(DurationSchema, { seconds: nanoseconds / second, nanos: Number(nanoseconds % second) });
  return toJson(DurationSchema, duration);
}

/** Calls an rpc of any kind with one request, and gives all responses. */
export async function callWith(transport: Transport, method: DescMethod, request: JsonObject): Promise<Message[]> {
  return callWithMessage(transport, method, fromJson(method.input, request));
}

/** The same with a message, which may say what JSON cannot. */
export async function callWithMessage(transport: Transport, method: DescMethod, message: Message): Promise<Message[]> {
  if (isUnary(method)) return [(await transport.unary(method, undefined, timeoutMs, undefined, message)).message];
  const requests = (async function* () {
    yield message;
  })();
  // It is one of the other three kinds.
  const streaming = method as DescMethodStreaming;
  const { message: responses } = await transport.stream(streaming, undefined, timeoutMs, undefined, requests);
  const all: Message[] = [];
  for await (const response of responses) {
    all.push(response);
    if (lasts(method) && tellsAll(method, response)) break;
  }
  return all;
}

const timeoutMs = 100_000;

/** Whether a stream goes on until its caller leaves. */
function lasts({ name }: DescMethod): boolean {
  return name.startsWith("Watch") || name === "Subscribe";
}

/** A watch of documents has told what is there with its first checkpoint, any other stream that lasts with its first event. */
function tellsAll({ output }: DescMethod, response: Message): boolean {
  const isOfDocuments = output.field["type"]?.enum?.typeName === WatchEventTypeSchema.typeName;
  return !isOfDocuments || ("type" in response && response.type === WatchEventType.CHECKPOINT);
}

function isUnary(method: DescMethod): method is DescMethodUnary {
  return method.methodKind === "unary";
}

import { hash, randomUUIDv7 } from "node:crypto";

import {
  clearField,
  type DescField,
  type DescMessage,
  type DescMethod,
  getOption,
  type Message,
  toBinary,
} from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel as Idempotency } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, type Interceptor, type StreamRequest, type UnaryRequest } from "@connectrpc/connect";

import { unaudited } from "../../../gen/lucid/options/v1/options_pb.ts";
import { type AuditedCall, auditedCall, doubtful, type EndedCall } from "../../schema/audited-call.ts";
import { peerAddress } from "../peer.ts";

type Request = UnaryRequest | StreamRequest;

/**
 * Begins the record of every call that may change something: what is not marked as free of side effects, or left out for a
 * reason that stands beside it. The handler's writes carry it; `ended` gets the call when it is over. To be outside of what
 * translates errors, so that it sees how the call ended.
 */
export function auditInterceptor({ ended }: { readonly ended: (call: EndedCall) => void }): Interceptor {
  const plans = new Map<DescMethod, Plan | undefined>();
  const planFor = (method: DescMethod): Plan | undefined => {
    if (!plans.has(method)) plans.set(method, isAudited(method) ? planOf(method) : undefined);
    return plans.get(method);
  };
  return (next) => async (request) => {
    const plan = planFor(request.method);
    if (plan === undefined) return next(request);
    const call: AuditedCall = {
      record: recordOf(request, plan),
      attempted: [],
      byResource: new Map(),
      handOver: (attempted) => ended({ attempted, outcome: "OK" }),
    };
    request.contextValues.set(auditedCall, call);
    const succeeded = () => ended({ attempted: call.attempted, outcome: "OK" });
    const failed = (error: unknown) => ended(failure(call, ConnectError.from(error).code, plan.resourceOf(request)));
    try {
      const response = await next(request);
      if (response.stream) return { ...response, message: followed(response.message, { succeeded, failed }) };
      succeeded();
      return response;
    } catch (error) {
      failed(error);
      throw error;
    }
  };
}

/** Whether an rpc of this platform may change something. The standard services of gRPC change nothing. */
export function isMutating({ idempotency, parent }: DescMethod): boolean {
  return idempotency !== Idempotency.NO_SIDE_EFFECTS && parent.typeName.startsWith("lucid.");
}

/** Whether the log tells of calls of an rpc: of all that may change something, but where the proto says why not. */
export function isAudited(method: DescMethod): boolean {
  return isMutating(method) && getOption(method, unaudited) === "";
}

async function* followed<T>(
  messages: AsyncIterable<T>,
  { succeeded, failed }: { succeeded: () => void; failed: (error: unknown) => void },
): AsyncGenerator<T> {
  let isOver = false;
  try {
    yield* messages;
    isOver = true;
    succeeded();
  } catch (error) {
    isOver = true;
    failed(error);
    throw error;
  } finally {
    // The caller left.
    if (!isOver) failed(new ConnectError("The call was cancelled", Code.Canceled));
  }
}

/** What is known of an rpc before it is called. */
interface Plan {
  readonly rpc: string;
  readonly action: string;
  /** The request without its secrets. */
  readonly withoutSecrets: (message: Message) => Message;
  readonly requestIdOf: (message: Message) => string;
  /** What the request is about, as far as it says so itself. */
  readonly resourceOf: (request: Request) => object | undefined;
}

function planOf(method: DescMethod): Plan {
  const { input, name, parent } = method;
  const [action = name] = /^[A-Z][a-z]+/.exec(name) ?? [];
  return {
    rpc: `${parent.typeName}/${name}`,
    action: action.toLowerCase(),
    withoutSecrets: redaction(input),
    requestIdOf: textAt(input, ["request_id"]),
    resourceOf: resourceIn(method),
  };
}

function recordOf(request: Request, plan: Plan) {
  const address = request.contextValues.get(peerAddress);
  const record = {
    timestamp: new Date(),
    // Until callers are authenticated.
    actor: { id: "anonymous", ...(address !== "" && { source_address: address }) },
    rpc: plan.rpc,
    action: plan.action,
  };
  if (request.stream) return record;
  const requestId = plan.requestIdOf(request.message);
  const bytes = toBinary(request.method.input, plan.withoutSecrets(request.message), { writeUnknownFields: false });
  return { ...record, ...(requestId !== "" && { request_id: requestId }), request_digest: hash("sha256", bytes) };
}

function failure({ record, attempted }: AuditedCall, code: Code, resource: object | undefined): EndedCall {
  const first = attempted[0]?.record["resource"] as object | undefined;
  const outcome = outcomes.get(code) ?? "UNKNOWN";
  const refusal = {
    // Not the id of a record that a write carries: that one may still arrive, and is logged then.
    audit_id: randomUUIDv7(),
    ...record,
    resource: first ?? resource,
    effect: attempted.length > 0 && doubtful.has(code) ? "UNKNOWN" : "NOT_CHANGED",
    outcome,
  };
  return { attempted, outcome, refusal };
}

/** `NotFound` → `NOT_FOUND`. */
const outcomes: ReadonlyMap<Code, string> = new Map(
  Object.entries(Code).flatMap(([name, code]): [Code, string][] => {
    if (typeof code === "string") return [];
    const words = name.replaceAll(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase();
    // Connect spells this one as Americans do.
    return [[code, code === Code.Canceled ? "CANCELLED" : words]];
  }),
);

// ---------------------------------------------------------------- what a request says

type Fields = Record<string, unknown>;

/** Longest text of a request that is kept. */
const mostCharacters = 256;

/** Reads a text field at a path of proto names; empty where the message has none. */
function textAt(schema: DescMessage, path: readonly string[]): (message: Message) => string {
  const fields: DescField[] = [];
  let inner: DescMessage | undefined = schema;
  for (const name of path) {
    const field: DescField | undefined = inner?.fields.find((candidate) => candidate.name === name);
    if (field === undefined) return () => "";
    fields.push(field);
    inner = field.fieldKind === "message" ? field.message : undefined;
  }
  return (message) => {
    let value: unknown = message;
    // What is on the way to a field of a message is a message.
    for (const { localName } of fields) value = (value as Fields | undefined)?.[localName];
    return typeof value === "string" ? value.slice(0, mostCharacters).toWellFormed() : "";
  };
}

/** A request of UserService is about a User: the one of `user_id`, or of `user.user_id`. */
function resourceIn({ input, parent }: DescMethod): (request: Request) => object | undefined {
  const type = parent.name.replace(/Service$/, "");
  const field = type.replaceAll(/(?<=[a-z])(?=[A-Z])/g, "_").toLowerCase();
  const direct = textAt(input, [`${field}_id`]);
  const within = textAt(input, [field, `${field}_id`]);
  return (request) => {
    if (request.stream) return undefined;
    const name = direct(request.message) || within(request.message);
    return name === "" ? undefined : { type, name };
  };
}

// ---------------------------------------------------------------- secrets

type Redaction = (message: Message) => Message;

const asIs: Redaction = (message) => message;

/** Makes copies of messages that lack every field that is marked `debug_redact`, at any depth. What has none is not copied. */
function redaction(schema: DescMessage, made = new Map<DescMessage, Redaction>()): Redaction {
  if (!hasSecrets(schema)) return asIs;
  const known = made.get(schema);
  if (known !== undefined) return known;
  const steps: ((copy: Message & Fields) => void)[] = [];
  const redact: Redaction = (message) => {
    // The members of a message are those of an object; its prototype may hold defaults.
    const copy = Object.assign(Object.create(Object.getPrototypeOf(message) as object) as Message & Fields, message);
    for (const step of steps) step(copy);
    return copy;
  };
  // Before its fields, since a message may hold itself.
  made.set(schema, redact);
  for (const field of schema.fields) {
    if (isSecret(field)) steps.push((copy) => clearField(copy, field));
    else if (field.message && hasSecrets(field.message)) steps.push(redactionIn(field, redaction(field.message, made)));
  }
  return redact;
}

/** Redacts what a field of messages holds: one, a list or a map of them, or nothing. */
function redactionIn({ fieldKind, localName, oneof }: DescField, redact: Redaction): (copy: Message & Fields) => void {
  if (oneof !== undefined) {
    return (copy) => {
      const { case: chosen, value } = copy[oneof.localName] as { case?: string; value?: Message };
      if (chosen === localName && value !== undefined) copy[oneof.localName] = { case: chosen, value: redact(value) };
    };
  }
  const inside = (value: unknown): unknown => {
    if (fieldKind === "list") return (value as Message[]).map(redact);
    if (fieldKind !== "map") return redact(value as Message);
    const entries = Object.entries(value as Record<string, Message>);
    return Object.fromEntries(entries.map(([key, item]) => [key, redact(item)]));
  };
  return (copy) => {
    if (copy[localName] !== undefined) copy[localName] = inside(copy[localName]);
  };
}

function hasSecrets(schema: DescMessage, around = new Set<DescMessage>()): boolean {
  if (around.has(schema)) return false;
  around.add(schema);
  return schema.fields.some((field) => isSecret(field) || (field.message && hasSecrets(field.message, around)));
}

function isSecret(field: DescField): boolean {
  return field.proto.options?.debugRedact === true;
}

import { setTimeout as pause } from "node:timers/promises";

import { type Client, errors } from "@elastic/elasticsearch";

import { fail } from "../../errors.ts";

/** How long one request may take, in milliseconds. */
export const requestMs = 60_000;

/** How often a request that the server has no room for is made, and the first pause, in milliseconds. */
const attempts = 9;
const firstPauseMs = 100;

/** A request whose answer is wanted as the bytes that the server sent. */
export interface RawRequest {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  readonly path: string;
  readonly querystring?: Readonly<Record<string, string | number | boolean>>;
  /** JSON. */
  readonly body?: string | Buffer;
  /** Lines of JSON instead. */
  readonly lines?: Buffer;
  /** Name for metrics. */
  readonly name: string;
}

/** The answer is longer than was allowed for; it was not read to its end. */
export class AnswerTooLong extends Error {}

/**
 * Makes a request and resolves with the bytes of its answer. Fails with the client's own errors, as its other methods do,
 * `DEADLINE_EXCEEDED`, and `AnswerTooLong`.
 */
export async function rawRequest(
  client: Client,
  { name, lines, ...request }: RawRequest,
  { signal, mostBytes = Number.MAX_SAFE_INTEGER }: { readonly signal: AbortSignal; readonly mostBytes?: number },
): Promise<Buffer> {
  // The client's own limit ends with the head of an answer that is read as a stream.
  const late = AbortSignal.timeout(requestMs);
  const either = AbortSignal.any([signal, late]);
  try {
    const params = { ...request, ...(lines !== undefined && { bulkBody: lines }), meta: { name } };
    // The client takes a body that is not an object for plain text.
    const type = lines === undefined ? "application/json" : "application/x-ndjson";
    const headers = { accept: "application/json", "content-type": type };
    const options = { signal: either, requestTimeout: requestMs, headers, asStream: true, meta: true } as const;
    const answer = await client.transport.request<AsyncIterable<Buffer>>(params, options);
    const body = await bytesOf(answer.body, mostBytes);
    if ((answer.statusCode ?? 0) < 400) return body;
    throw new errors.ResponseError({ ...answer, body: parsed(body) });
  } catch (error) {
    signal.throwIfAborted();
    if (!late.aborted) throw error;
    throw fail("DEADLINE_EXCEEDED", "The search server did not answer in time", {
      metadata: { store: "search" },
      cause: error,
    });
  }
}

/** Fails with `AnswerTooLong`, and with the client's own error where the connection breaks, of which it tells only until a body begins. */
async function bytesOf(body: AsyncIterable<Buffer>, mostBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of body) {
      chunks.push(chunk);
      bytes += chunk.length;
      // Leaving the loop ends the request.
      if (bytes > mostBytes) throw new AnswerTooLong(`The answer has more than ${mostBytes} bytes`);
    }
  } catch (error) {
    if (error instanceof AnswerTooLong) throw error;
    throw new errors.ConnectionError("The connection broke within an answer", undefined, {
      redaction: { type: "remove" },
      cause: error,
    });
  }
  return Buffer.concat(chunks);
}

/** What an error says, where it is JSON: a proxy may have sent it. */
function parsed(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString());
  } catch {
    return body.toString();
  }
}

/** The status of an answer that a request failed with; undefined for other failures. */
export function statusOf(error: unknown): number | undefined {
  return error instanceof errors.ResponseError ? error.statusCode : undefined;
}

/** The type of what a server refused, and what it says of it. */
export function refusalOf(error: unknown): { readonly type: string; readonly reason: string } {
  const body: unknown = error instanceof errors.ResponseError ? error.body : undefined;
  const told = typeof body === "object" && body !== null && "error" in body ? body.error : undefined;
  if (typeof told !== "object" || told === null) return { type: "", reason: "" };
  const cause = "root_cause" in told && Array.isArray(told.root_cause) ? (told.root_cause[0] as unknown) : told;
  const of = (name: string): string => {
    const value = typeof cause === "object" && cause !== null ? Reflect.get(cause, name) : undefined;
    return typeof value === "string" ? value : "";
  };
  return { type: of("type"), reason: of("reason") };
}

/** Whether the server had no room for a request, or could not be reached: the same may go well a little later. */
export function isPassing(error: unknown): boolean {
  const status = statusOf(error);
  if (status !== undefined) return status === 429 || status === 503;
  return error instanceof errors.ConnectionError && !(error instanceof errors.TimeoutError);
}

/**
 * Makes a request that may be made again until there is room for it: nine times in half a minute. `work` is told whether it may
 * have been done before, `mayTryAgain` decides after which failures it is made again.
 */
export async function withPatience<T>(
  signal: AbortSignal,
  work: (again: boolean) => Promise<T>,
  mayTryAgain: (error: unknown) => boolean = isPassing,
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work(attempt > 1);
    } catch (error) {
      if (!mayTryAgain(error) || attempt === attempts) throw error;
      await pauseBefore(attempt, signal);
    }
  }
}

/** Waits before a further attempt; false where there were enough. */
export async function pauseBefore(attempt: number, signal: AbortSignal): Promise<boolean> {
  if (attempt >= attempts) return false;
  await pause(firstPauseMs * 2 ** (attempt - 1), undefined, { signal });
  return true;
}

/** A path to an index, a document or whatever has names of any characters. */
export function pathOf(...names: readonly string[]): string {
  return `/${names.map(encodeURIComponent).join("/")}`;
}

/** A member of a parsed object. */
export function property(object: unknown, name: string): unknown {
  return typeof object === "object" && object !== null ? Reflect.get(object, name) : undefined;
}

/** Servers refuse a line of more than 4096 bytes. */
const mostNameBytes = 3000;

/** Names of indices in lists that fit into a path. */
export function* namesInPaths(names: readonly string[]): Generator<string[]> {
  let list: string[] = [];
  let bytes = 0;
  for (const name of names) {
    const more = encodeURIComponent(name).length + 1;
    if (bytes + more > mostNameBytes && list.length > 0) {
      yield list;
      [list, bytes] = [[], 0];
    }
    list.push(name);
    bytes += more;
  }
  if (list.length > 0) yield list;
}

import type { DescService } from "@bufbuild/protobuf";

/** What tables of refused calls say of them, and send. */

/** The rpc and what is wrong, the call, and what it is told. */
export type Refusal<Call> = readonly [name: `${string}: ${string}`, call: Call, expected: object];

/** The rpcs that take anything and are refused nothing in a table. */
export function untried({ methods }: DescService, refusals: readonly Refusal<unknown>[]): string[] {
  const tried = new Set(refusals.map(([name]) => name.split(":", 1)[0]));
  const taking = methods.filter(({ input }) => input.fields.length > 0);
  return taking.map(({ localName }) => localName).filter((name) => !tried.has(name));
}

/** The id of nothing, as ids are made. */
export const nothing = "00000000-0000-7000-8000-000000000000";

/** Longer than any id may be. */
export const long = "x".repeat(129);

export const megabyte = "x".repeat(1_000_000);

/** No value of any enum. */
export const unknown = 99 as never;

/** What a request that breaks rules of these fields is told. */
export function bad(...fields: string[]) {
  return { code: "InvalidArgument", reason: "BAD_REQUEST", fields };
}

export const noToken = { code: "InvalidArgument", reason: "PAGE_TOKEN_INVALID", fields: ["page_token"] };

export const stale = { code: "Aborted", reason: "ETAG_MISMATCH" };

/** A Struct of so many levels. */
export function deep(levels: number): Record<string, never> {
  return JSON.parse(`${'{"a":'.repeat(levels)}1${"}".repeat(levels)}`) as Record<string, never>;
}

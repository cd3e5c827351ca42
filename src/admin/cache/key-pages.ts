import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import type { Cluster, Redis } from "ioredis";

import { pageSizeOf, queryOf } from "../../schema/list-query.ts";
import type { PageTokens } from "../../schema/page-tokens.ts";
import { keyspaceOf, positionExpired, type ScanFilter, scanPage, type ScanPosition, scanStart } from "./key-scan.ts";

/** A request for a page of keys, or of what they hold. */
type PageRequest<D extends DescMessage> = MessageShape<D> & { readonly pageSize: number; readonly pageToken: string };

/** Finds the keys of a page, by the server that has them, and the token of the next page. */
export function keyPages({
  client,
  pageTokens,
}: {
  readonly client: Redis | Cluster;
  readonly pageTokens: () => Promise<PageTokens>;
}) {
  return async <D extends DescMessage>(
    schema: D,
    request: PageRequest<D>,
    { filter, signal }: { readonly filter: ScanFilter; readonly signal: AbortSignal },
  ): Promise<{ readonly found: ReadonlyMap<Redis, readonly Buffer[]>; readonly nextPageToken: string }> => {
    const query = queryOf(schema, request);
    const tokens = await pageTokens();
    const keyspace = await keyspaceOf(client);
    const from = positionOf(tokens.decode(query, request.pageToken), keyspace.version);
    const { found, next } = await scanPage(keyspace, { from, filter, size: pageSizeOf(request.pageSize), signal });
    if (next === undefined) return { found, nextPageToken: "" };
    const position = JSON.stringify([keyspace.version, next.server, next.cursor]);
    return { found, nextPageToken: tokens.encode(query, position) };
  };
}

function positionOf(position: string | undefined, version: string): ScanPosition {
  if (position === undefined) return scanStart;
  const [then, server, cursor] = JSON.parse(position) as [string, number, string]; // sealed by this service
  if (then !== version) throw positionExpired("servers or slots have changed");
  return { server, cursor };
}

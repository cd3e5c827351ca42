import { create } from "@bufbuild/protobuf";

import {
  ConflictPolicy,
  type RestoredUnit,
  RestoredUnitSchema,
  SelectionSchema,
} from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import { type Unit, UnitSchema } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import type { TargetRun, Work } from "../../../src/backup/contracts.ts";
import { searchSource } from "../../../src/backup/search/source.ts";
import { searchTarget } from "../../../src/backup/search/target.ts";
import { openSearch, type SearchStore } from "../../../src/stores/search.ts";
import { JsonScan } from "../../../src/stores/search/json-scan.ts";
import { rawRequest } from "../../../src/stores/search/requests.ts";
import { uniqueName } from "../../support/stores.ts";
import { type MemoryStreams, memoryStreams, quietWork } from "../mongodb/memory.ts";

/** A server, and names in it that nothing else uses. */
export interface Cluster extends AsyncDisposable {
  readonly search: SearchStore;
  /** What all its indices, aliases and templates begin with. */
  readonly prefix: string;
  readonly request: (method: "GET" | "POST" | "PUT" | "DELETE", path: string, body?: unknown) => Promise<unknown>;
}

export async function clusterAt(uri: string): Promise<Cluster> {
  const search = openSearch({ uri });
  const prefix = uniqueName("backup");
  const request = async (method: "GET" | "POST" | "PUT" | "DELETE", path: string, body?: unknown): Promise<unknown> => {
    const text = typeof body === "string" ? body : body === undefined ? undefined : JSON.stringify(body);
    const [target = "", query = ""] = path.split("?");
    const answer = await rawRequest(
      search.client,
      {
        method,
        path: target,
        querystring: Object.fromEntries(new URLSearchParams(query)),
        ...(text !== undefined && (target.endsWith("_bulk") ? { lines: Buffer.from(text) } : { body: text })),
        name: "test",
      },
      { signal: AbortSignal.timeout(150_000) },
    );
    return answer.length === 0 ? undefined : JSON.parse(answer.toString());
  };
  return {
    search,
    prefix,
    request,
    async [Symbol.asyncDispose]() {
      const indices = await search.client.cat.indices({
        index: `${prefix}*`,
        format: "json",
        h: ["index"],
        expand_wildcards: "all",
      });
      for (const { index = "" } of indices) await request("DELETE", `/${index}`);
      for (const kind of ["index", "component"]) {
        // The lists are named as their kinds are.
        const all = (await request("GET", `/_${kind}_template`)) as Record<string, { name: string }[]>;
        for (const { name } of all[`${kind}_templates`] ?? []) {
          if (name.startsWith(prefix)) await request("DELETE", `/_${kind}_template/${name}`);
        }
      }
      await search[Symbol.asyncDispose]();
    },
  };
}

export function selectionOf(indices: readonly string[]) {
  return create(SelectionSchema, { stores: [Store.SEARCH], searchIndices: [...indices] });
}

/** A backup, as the repository would have it. */
export interface TakenBackup {
  readonly units: readonly Unit[];
  readonly streams: MemoryStreams;
  readonly cut: { readonly searchSequenceNumbers?: Record<string, bigint> };
}

interface BackupOptions {
  readonly work?: Work;
  readonly streams?: MemoryStreams;
  readonly afterCut?: () => Promise<void>;
}

export async function backedUp(
  { search }: Cluster,
  indices: readonly string[],
  { work = quietWork(), streams = memoryStreams(), afterCut }: BackupOptions = {},
): Promise<TakenBackup> {
  await using run = await searchSource({ search }).begin(selectionOf(indices), streams, work);
  await run.read();
  const cut = await run.cut();
  await afterCut?.();
  const units = await run.finish();
  return { units: units.map((unit) => create(UnitSchema, unit)), streams, cut };
}

interface RestoreOptions {
  readonly renames?: readonly (readonly [from: string, to: string])[];
  readonly policy?: ConflictPolicy;
  readonly work?: Work;
  readonly beforeCompare?: () => Promise<void>;
}

export function prepared(
  { search }: Cluster,
  { units, streams }: TakenBackup,
  { renames = [], policy = ConflictPolicy.FAIL, work = quietWork() }: RestoreOptions = {},
): Promise<TargetRun> {
  const plan = {
    units,
    selection: selectionOf([]),
    renames: renames.map(([from, to]) => ({
      store: Store.SEARCH,
      from,
      to,
      $typeName: "lucid.admin.v1.Rename" as const,
    })),
    conflictPolicy: policy,
  };
  return searchTarget({ search }).prepare(plan, streams, work);
}

/** Restores and compares; what the report says then. */
export async function restored(
  cluster: Cluster,
  backup: TakenBackup,
  options: RestoreOptions = {},
): Promise<RestoredUnit[]> {
  await using run = await prepared(cluster, backup, options);
  await run.restore();
  await options.beforeCompare?.();
  await run.compare();
  return reportOf(run);
}

export function reportOf(run: TargetRun): RestoredUnit[] {
  return run.report().map((unit) => create(RestoredUnitSchema, unit));
}

/** Every document of an index as text, read in another way than backups read them. */
export async function contents({ search }: Cluster, index: string): Promise<Map<string, string>> {
  const signal = AbortSignal.timeout(150_000);
  await search.client.indices.refresh({ index });
  const first = { method: "POST", path: `/${index}/_search`, name: "test" } as const;
  const found = new Map<string, string>();
  let body: string = JSON.stringify({ size: 1000, version: true, sort: ["_doc"] });
  let answer = await rawRequest(search.client, { ...first, querystring: { scroll: "1m" }, body }, { signal });
  for (;;) {
    const scan = new JsonScan(answer);
    const whole = scan.whole();
    const hits = scan.member(scan.member(whole, "hits") ?? whole, "hits");
    let count = 0;
    for (const hit of hits === undefined ? [] : scan.elements(hits)) {
      const text = (name: string): string => {
        const member = scan.member(hit, name);
        return member === undefined ? "" : scan.text(member);
      };
      found.set(text("_id"), [text("_routing"), text("_version"), text("_source")].join(" "));
      count++;
    }
    const id = scan.member(whole, "_scroll_id");
    if (count === 0 || id === undefined) return found;
    body = `{"scroll":"1m","scroll_id":${scan.text(id)}}`;
    answer = await rawRequest(
      search.client,
      { method: "POST", path: "/_search/scroll", body, name: "test" },
      { signal },
    );
  }
}

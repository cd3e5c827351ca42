import { randomBytes } from "node:crypto";

import type { Cluster, Redis } from "ioredis";

import { ConflictPolicy } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { fail } from "../../errors.ts";
import type { RecordSource, RestorePlan } from "../contracts.ts";
import { accepted } from "./connection.ts";
import { type Deployment, discover, Router } from "./deployment.ts";
import { probePayload } from "./dump-payload.ts";
import { isSelected } from "./key-copy.ts";
import { KeyRenames } from "./key-renames.ts";
import { endsKey, recordBatches } from "./records.ts";
import { RefusedReply } from "./reply-parser.ts";
import { RestoredDatabase } from "./restored-database.ts";

/** Keys that a failure names, and how much of each. */
const mostNamed = 10;
const namedCharacters = 100;

/** What a restore does with which keys. */
export interface KeyPlan {
  readonly deployment: Deployment;
  readonly databases: readonly RestoredDatabase[];
  readonly renames: KeyRenames;
  readonly policy: ConflictPolicy;
  /** Patterns of keys by their names in the backup; all keys, where there is none. */
  readonly patterns: readonly Buffer[];
}

/**
 * Finds out whether everything can go where it shall; changes nothing. Fails with `RESTORE_CONFLICT` where keys are there that
 * the policy does not allow for, `RESTORE_REFUSED` where the server cannot take what the backup has.
 */
export async function planKeys(
  plan: RestorePlan,
  given: {
    readonly client: Redis | Cluster;
    readonly source: RecordSource;
    readonly signal: AbortSignal;
    readonly stack: AsyncDisposableStack;
  },
): Promise<KeyPlan> {
  const { client, source, signal, stack } = given;
  const deployment = await discover(client, signal);
  const databases: RestoredDatabase[] = [];
  for (const unit of plan.units) {
    if (unit.description.case !== "redisKeys") throw refused(`${unit.name} is nothing that Redis can hold`, {});
    const { database } = unit.description.value;
    const router = stack.use(new Router(client, deployment, { database, signal }));
    databases.push(new RestoredDatabase(unit, unit.description.value, router));
  }
  const keyPlan: KeyPlan = {
    deployment,
    databases,
    renames: new KeyRenames(plan.renames),
    policy: plan.conflictPolicy,
    patterns: plan.selection.redisKeyPatterns.map((pattern) => Buffer.from(pattern)),
  };
  for (const database of databases) await requireFit(database, deployment);
  await survey(keyPlan, source, signal);
  return keyPlan;
}

async function requireFit({ description, router, unit }: RestoredDatabase, deployment: Deployment): Promise<void> {
  const { database, rdbVersion, serverVersion } = description;
  if (deployment.isCluster && database !== 0) {
    throw refused("A Redis cluster has database 0 only", { unit: unit.name });
  }
  const key = Buffer.from(`lucid_restore:${randomBytes(16).toString("hex")}`);
  try {
    const [replies] = await router.run([{ key, commands: [["RESTORE", key, 0, probePayload(rdbVersion)]] }]);
    const [reply] = replies ?? [];
    if (reply instanceof RefusedReply && reply.message.includes("Bad data format")) return;
    if (!(reply instanceof RefusedReply) || !reply.message.includes("version")) {
      accepted(reply);
      throw new Error("Redis restored what is no value");
    }
  } catch (error) {
    if (error instanceof RefusedReply && error.message.includes("DB index")) {
      throw refused(`The Redis server has no database ${database}`, { unit: unit.name });
    }
    throw error;
  }
  throw refused("The backup is of a newer version of Redis than the server can read", {
    unit: unit.name,
    backup_version: serverVersion,
    server_version: deployment.facts.version,
    rdb_version: String(rdbVersion),
  });
}

/** Reads the names of all keys where something depends on them: conflicts, clashing renames, the number of those selected. */
async function survey(plan: KeyPlan, source: RecordSource, signal: AbortSignal): Promise<void> {
  const { policy, renames, patterns, databases } = plan;
  const mayConflict =
    policy !== ConflictPolicy.DROP && policy !== ConflictPolicy.OVERWRITE && policy !== ConflictPolicy.SKIP;
  if (!mayConflict && patterns.length === 0 && !renames.mayCollide) return;
  const conflicts: string[] = [];
  let conflictCount = 0;
  for (const database of databases) {
    let selected = 0;
    for (const stream of database.unit.streams) {
      for await (const batch of recordBatches(source, stream, signal)) {
        const keys = batch
          .filter(({ record }) => endsKey(record) && isSelected(record.key, patterns))
          .map(({ record }) => renames.target(record.key));
        selected += keys.length;
        for (const key of keys) if (renames.mayCollide) renames.requireAlone(database.description.database, key);
        if (!mayConflict) continue;
        const replies = await database.router.run(keys.map((key) => ({ key, commands: [["EXISTS", key]] })));
        const there = keys.filter((_, index) => accepted(replies[index]?.[0]) === 1);
        conflictCount += there.length;
        conflicts.push(...there.slice(0, mostNamed - conflicts.length).map(shown));
      }
    }
    database.expected = selected;
  }
  if (conflictCount > 0) throw conflict(conflictCount, conflicts);
}

/** A key in a message: what of it is text, and not all of a long one. */
function shown(key: Buffer): string {
  return key.toString().slice(0, namedCharacters);
}

/** Keys are there that the restore may not touch. */
export function conflict(count: number, names: readonly string[]): Error {
  return fail("RESTORE_CONFLICT", `${count} of the Redis keys to restore are there already`, {
    metadata: { store: "redis", conflicts: names.join(", "), conflict_count: String(count) },
  });
}

export function refused(message: string, metadata: Record<string, string>, cause?: unknown): Error {
  return fail("RESTORE_REFUSED", message, { metadata: { store: "redis", ...metadata }, cause });
}

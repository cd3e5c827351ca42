import type { Command } from "commander";

import {
  DatabaseAdminService,
  EnableShardingResponseSchema,
  GetBalancerStatusResponseSchema,
  GetShardingStatusResponseSchema,
  ShardCollectionResponseSchema,
} from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import type { BalancerStatus, Shard } from "../../../gen/lucid/admin/v1/sharding_pb.ts";
import { withExamples } from "../examples.ts";
import { keyText, readKey } from "../index-keys.ts";
import type { Column } from "../output.ts";
import type { Session } from "../session.ts";
import { count, nothing, readNumber } from "../units.ts";

/** `lucid shard …`. */
export function define(shard: Command, session: Session): void {
  const client = () => session.client(DatabaseAdminService);

  withExamples(
    shard
      .command("status")
      .description("Show the shards, what is sharded and how, and the balancer")
      .action(async () => {
        const { output } = session;
        const response = await client().getShardingStatus({}, session.call());
        if (output.json) return output.message(GetShardingStatusResponseSchema, response);
        const { shards = [], databases = [], balancer, truncated = false } = response.status ?? {};
        await output.table(shards, shardColumns);
        const collections = databases.flatMap(({ database, primaryShard, collections: all }) =>
          all.map((each) => ({ database, primaryShard, ...each })),
        );
        if (collections.length > 0) {
          await output.line();
          await output.table(collections, [
            { title: "COLLECTION", of: ({ database, collection }) => `${database}.${collection}` },
            { title: "KEY", of: ({ key }) => key.map(keyText).join(", ") },
            { title: "PRIMARY SHARD", of: ({ primaryShard }) => primaryShard },
            { title: "BALANCED", of: ({ balanced }) => (balanced ? "yes" : "no") },
          ]);
        }
        if (truncated) output.note("There is more than is shown here.");
        await output.line();
        await output.line(`The balancer is ${balancerText(balancer)}.`);
      }),
    "lucid shard status",
  );

  withExamples(
    shard
      .command("enable")
      .description("Let collections of a database be sharded")
      .argument("<database>", "name of the database")
      .option("--dry-run", "check what can be checked, and change nothing")
      .action(async (database: string, { dryRun = false }: { dryRun?: boolean }) => {
        const response = await client().enableSharding({ database, validateOnly: dryRun }, session.call());
        if (session.output.json) return session.output.message(EnableShardingResponseSchema, response);
        session.output.note(
          dryRun ? "It could be enabled; nothing was changed." : `Collections of ${database} can be sharded.`,
        );
      }),
    "lucid shard enable lucid",
  );

  withExamples(
    shard
      .command("collection")
      .description("Shard a collection; its key cannot be taken back")
      .argument("<collection>", "name of the collection")
      .argument("<key...>", "fields in their order: name, or name:hashed")
      .option("--database <name>", "its database; that of the domain where not said")
      .option("--unique", "no two documents may have the same key")
      .option("--chunks <number>", "how many chunks it begins with", readNumber(0, 8192))
      .option("--dry-run", "check what can be checked, and change nothing")
      .action(
        async (
          collection: string,
          keys: readonly string[],
          options: { database?: string; unique?: boolean; chunks?: number; dryRun?: boolean },
        ) => {
          const { database = "", unique = false, chunks = 0, dryRun = false } = options;
          const key = keys.map(readKey);
          const request = { database, collection, key, unique, initialChunkCount: chunks };
          const would = await client().shardCollection({ ...request, validateOnly: true }, session.call());
          if (!dryRun) await session.confirm("A collection that is sharded stays so, by this key", collection);
          const response = dryRun ? would : await client().shardCollection(request, session.call());
          if (session.output.json) return session.output.message(ShardCollectionResponseSchema, response);
          session.output.note(dryRun ? "It could be sharded; nothing was changed." : `${collection} is sharded.`);
        },
      ),
    "lucid shard collection sessions session_id:hashed --dry-run",
  );

  defineBalancer(shard.command("balancer").description("What moves data between shards"), session);
}

function defineBalancer(balancer: Command, session: Session): void {
  const client = () => session.client(DatabaseAdminService);
  const tell = async (status: BalancerStatus | undefined): Promise<void> => {
    const { output } = session;
    if (output.json) {
      const response = { $typeName: GetBalancerStatusResponseSchema.typeName, ...(status && { balancer: status }) };
      return output.message(GetBalancerStatusResponseSchema, response);
    }
    await output.line(`The balancer is ${balancerText(status)}.`);
  };
  withExamples(
    balancer
      .command("status")
      .description("Show whether the balancer is on, and moves anything")
      .action(async () => tell((await client().getBalancerStatus({}, session.call())).balancer)),
    "lucid shard balancer status",
  );
  withExamples(
    balancer
      .command("start")
      .description("Switch the balancer on")
      .action(async () => tell((await client().startBalancer({}, session.call())).balancer)),
    "lucid shard balancer start",
  );
  withExamples(
    balancer
      .command("stop")
      .description("Switch the balancer off, once it has moved what it is moving")
      .action(async () => tell((await client().stopBalancer({}, session.call())).balancer)),
    "lucid shard balancer stop",
  );
}

function balancerText(status: BalancerStatus | undefined): string {
  if (status?.enabled !== true) return "off";
  return `on, ${status.balancing ? "and moves data now" : "and has nothing to move"}, after ${count(status.roundCount)} rounds`;
}

const shardColumns: readonly Column<Shard>[] = [
  { title: "SHARD", of: ({ shard }) => shard },
  { title: "ACTIVE", of: ({ active }) => (active ? "yes" : "no"), style: ({ active }) => (active ? "green" : "red") },
  { title: "DRAINING", of: ({ draining }) => (draining ? "yes" : "no") },
  { title: "ZONES", of: ({ zones }) => zones.join(", ") || nothing },
  { title: "HOSTS", of: ({ hosts }) => hosts, mayBeCut: true },
];

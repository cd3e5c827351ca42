import { Cluster, Redis } from "ioredis";
import { expect, test } from "vitest";

import { startRedis } from "../../../local/redis.ts";
import { slotOf } from "../../../src/backup/redis/slots.ts";
import { failureOf } from "../repository/support.ts";
import { backedUp, contents, ownRedis, prepared, recordsOf, restored } from "./support.ts";

/** Three primaries, each with a third of the slots. */
async function ownCluster() {
  await using stack = new AsyncDisposableStack();
  const nodes: Redis[] = [];
  for (let index = 0; index < 3; index++) {
    const server = stack.use(await startRedis({ cluster: true }));
    const node = new Redis(server.uri, { protocol: 2 });
    stack.defer(() => node.disconnect());
    nodes.push(node);
    const [from, to] = [Math.ceil((16_384 * index) / 3), Math.ceil((16_384 * (index + 1)) / 3)];
    await node.cluster("ADDSLOTS", ...Array.from({ length: to - from }, (_, slot) => from + slot));
    await node.call("CLUSTER", "SET-CONFIG-EPOCH", index + 1);
    await nodes[0]?.call("CLUSTER", "MEET", "127.0.0.1", server.port);
  }
  for (const node of nodes) {
    for (let info = ""; !/cluster_state:ok[^]*cluster_known_nodes:3/.test(info);) info = await node.cluster("INFO");
  }
  const [first] = nodes;
  if (first === undefined) throw new Error("no node");
  const client = new Cluster([{ host: "127.0.0.1", port: first.options.port }], { redisOptions: { protocol: 2 } });
  stack.defer(() => client.disconnect());
  await client.ping();
  const owned = stack.move();
  return { client, nodes, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

async function contentsOf(nodes: readonly Redis[]): Promise<Map<string, string>> {
  const all = await Promise.all(nodes.map((node) => contents(node)));
  return new Map(all.flatMap((one) => [...one]));
}

async function fill(client: Cluster | Redis): Promise<void> {
  const members = Array.from({ length: 3000 }, (_, index) => `member ${index}`);
  for (let index = 0; index < 300; index++) await client.set(`key:${index}`, `value ${index}`, "PX", 3_600_000 + index);
  await client.sadd("{tag}set", ...members);
  await client.rpush("list}of{braces", ...members);
  await client.hset("", "the", "empty key");
}

test("a cluster is backed up and restored into a cluster and into one server, and one server into a cluster", async () => {
  await using one = await ownCluster();
  await fill(one.client);
  const expected = await contentsOf(one.nodes);
  expect(expected.size).toBe(303);

  const backup = await backedUp(one.client, { largeValueBytes: 20_000 });
  expect(recordsOf(backup).some(({ part }) => part !== undefined)).toBe(true);
  expect(backup.units).toMatchObject([{ name: "db0", streams: { length: 3 } }]);
  expect(backup.cut.redisReplicationIds?.length).toBe(3);

  await Promise.all(one.nodes.map((node) => node.flushall()));
  expect(await restored(one.client, backup)).toMatchObject([{ equal: true, remark: "", writtenItems: 303n }]);
  expect(await contentsOf(one.nodes)).toEqual(expected);
  expect(await restored(one.client, backup, { renames: [["", "copy:"]] })).toMatchObject([
    { equal: true, writtenItems: 303n },
  ]);
  expect(await failureOf(() => prepared(one.client, backup))).toMatchObject({ reason: "RESTORE_CONFLICT" });

  await using single = await ownRedis();
  expect(await restored(single.client, backup)).toMatchObject([{ equal: true, writtenItems: 303n }]);
  expect(await contents(single.client)).toEqual(expected);

  const fromSingle = await backedUp(single.client);
  await Promise.all(one.nodes.map((node) => node.flushall()));
  expect(await restored(one.client, fromSingle)).toMatchObject([{ equal: true, writtenItems: 303n }]);
  expect(await contentsOf(one.nodes)).toEqual(expected);

  await single.client.select(3);
  await single.client.set("not", "in a cluster");
  const twoDatabases = await backedUp(single.client);
  expect(await failureOf(() => prepared(one.client, twoDatabases))).toMatchObject({ reason: "RESTORE_REFUSED" });
});

test("a restore follows a slot that moves, and a backup meanwhile fails", async () => {
  await using one = await ownCluster();
  const { client, nodes } = one;
  await fill(client);
  const backup = await backedUp(client);
  await Promise.all(nodes.map((node) => node.flushall()));
  const slot = slotOf(Buffer.from("key:1"));
  const ids = await Promise.all(nodes.map((node) => node.cluster("MYID")));
  const owner = Math.min(2, Math.floor((3 * slot) / 16_384));
  const taker = (owner + 1) % 3;
  const move = async (): Promise<void> => {
    for (const node of nodes) await node.call("CLUSTER", "SETSLOT", slot, "NODE", ids[taker] ?? "");
  };

  await using run = await prepared(client, backup);
  await move();
  await run.restore();
  await run.compare();
  expect(run.report()).toMatchObject([{ equal: true, writtenItems: 303n }]);

  expect(
    await failureOf(() =>
      backedUp(client, {
        afterCut: async () => {
          // A node gives no slot away in this manner that it still has keys of.
          await Promise.all(nodes.map((node) => node.flushall()));
          for (const node of nodes) await node.call("CLUSTER", "SETSLOT", slot, "NODE", ids[owner] ?? "");
        },
      }),
    ),
  ).toMatchObject({ reason: "BACKUP_SOURCE_CHANGED" });
});

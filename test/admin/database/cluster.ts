import { type Document, Long, Timestamp } from "bson";

import { DatabaseAdminService } from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { AuditLogService } from "../../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import { patient } from "../../support/app.ts";
import { storeAddresses } from "../../support/stores.ts";
import { type Command, openRouter, type Router } from "./router.ts";
import { type AdminApp, adminApp } from "./support.ts";

type Answer = (command: Command, name: string) => Document | undefined | Promise<Document | undefined>;

/** The service, on a router of a cluster of two shards. */
export interface ShardedApp extends AdminApp {
  readonly router: Router;
  /** What the cluster is by now. */
  readonly cluster: Cluster;
  /** What the router answers besides, in one test. */
  also: Answer;
  /** Makes the cluster what it was at first. */
  reset(): void;
  /** Commands of a name that the router was sent, without what every command has. */
  sentBy(name: string): Document[];
  /** What the audit log says of an rpc, the newest first. */
  recordsOf(rpc: string): Promise<string[]>;
}

export async function shardedApp(): Promise<ShardedApp> {
  await using stack = new AsyncDisposableStack();
  let cluster = new Cluster();
  const nothing: Answer = () => undefined;
  let also = nothing;
  const router = stack.use(
    await openRouter(storeAddresses().mongodbUri, async (command, name) => {
      return (await also(command, name)) ?? cluster.answer(command, name);
    }),
  );
  const service = stack.use(await adminApp({ LUCID_MONGODB_URI: patient(router.uri) }));
  const running = stack.move();
  const common = /^(?:lsid|\$|maxTimeMS|txnNumber|readPreference)/;
  return {
    ...service,
    router,
    get cluster() {
      return cluster;
    },
    get also() {
      return also;
    },
    set also(answer) {
      also = answer;
    },
    reset() {
      cluster = new Cluster();
      also = nothing;
    },
    sentBy: (name: string) =>
      router.commands
        .filter((command) => Object.keys(command)[0] === name)
        .map((command) => Object.fromEntries(Object.entries(command).filter(([key]) => !common.test(key)))),
    async recordsOf(rpc: string) {
      const filter = { rpc: `${DatabaseAdminService.typeName}/${rpc}` };
      const { records } = await service.app.client(AuditLogService).listAuditRecords({ filter });
      return records.map(({ resource, outcome }) => `${resource?.type} ${resource?.name} ${outcome}`);
    },
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  };
}

/** What a cluster of two shards answers, in the shapes of MongoDB's manual. */
class Cluster {
  balancer = "full";
  readonly databases: Document[] = [
    { _id: "admin", primary: "config", partitioned: true },
    { _id: "shop", primary: "shard01", partitioned: false, version: { lastMod: 1 } },
  ];
  readonly collections: Document[] = [
    { _id: "config.system.sessions", key: { _id: 1 }, unique: false, noBalance: false },
    { _id: "shop.orders", key: { customer: 1, _id: 1 }, unique: false, noBalance: true, lastmod: new Date(0) },
    { _id: "shop.pinned", key: { _id: 1 }, unique: false, unsplittable: true },
    { _id: "shop.gone", dropped: true, lastmod: new Date(0) },
  ];

  answer(command: Command, name: string): Document | undefined {
    const { $db } = command;
    if ($db === "config") return this.#config(command, name);
    if ($db !== "admin") return undefined;
    switch (name) {
      case "serverStatus":
        if (command["sharding"] !== 1) return undefined;
        return done({ sharding: { configsvrConnectionString: "csrs/cfg1:27019,cfg2:27019", maxChunkSizeInBytes: 1 } });
      case "listShards":
        return done({
          shards: [
            { _id: "shard02", host: "shard02/mongo3:27018", state: 1, draining: true, topologyTime: new Timestamp(1n) },
            { _id: "shard01", host: "shard01/mongo1:27018,mongo2:27018", state: 1, tags: ["EU", "hot"] },
          ],
        });
      case "balancerStatus":
        return done({ mode: this.balancer, inBalancerRound: false, numBalancerRounds: Long.fromNumber(1143) });
      case "balancerStart":
      case "balancerStop":
        this.balancer = name === "balancerStart" ? "full" : "off";
        return done({});
      case "enableSharding":
        this.databases.push({ _id: command["enableSharding"], primary: "shard02" });
        return done({});
      case "shardCollection":
        return this.#shard(command);
      default:
        return undefined;
    }
  }

  #shard({ shardCollection: _id, key, unique }: Command): Document {
    // In the words of a server; `wrong` are fields that no index begins with.
    if ("wrong" in (key as object)) {
      const errmsg = "Please create an index that starts with the proposed shard key before sharding the collection. ";
      return { ok: 0, errmsg, code: 72, codeName: "InvalidOptions" };
    }
    if ("taken" in (key as object)) {
      const errmsg = `sharding already enabled for collection ${String(_id)} with options { a secret }`;
      return { ok: 0, errmsg, code: 23, codeName: "AlreadyInitialized" };
    }
    this.collections.push({ _id, key, unique: unique === true, noBalance: false });
    return done({ collectionsharded: _id });
  }

  #config({ find, filter, limit }: Command, name: string): Document | undefined {
    if (name !== "find") return undefined;
    const all = find === "databases" ? this.databases : this.collections;
    const { _id, dropped } = filter as Document;
    const range = (_id ?? {}) as { $gte?: string; $lt?: string };
    const found = all
      .filter((each) => _id === undefined || each["_id"] === _id || isWithin(String(each["_id"]), range))
      .filter((each) => dropped === undefined || (each["dropped"] !== true && each["key"] !== undefined))
      .toSorted((one, other) => (String(one["_id"]) < String(other["_id"]) ? -1 : 1));
    return done({ cursor: { id: Long.ZERO, ns: `config.${String(find)}`, firstBatch: found.slice(0, Number(limit)) } });
  }
}

function isWithin(id: string, { $gte, $lt }: { $gte?: string; $lt?: string }): boolean {
  return $gte !== undefined && $lt !== undefined && id >= $gte && id < $lt;
}

/** A reply that says all went well. */
export function done(reply: Document): Document {
  return { ...reply, ok: 1, $clusterTime: { clusterTime: new Timestamp(1n) } };
}

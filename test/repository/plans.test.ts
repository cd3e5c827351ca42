import { inspect } from "node:util";

import type { DescField, DescMessage, DescMethod, JsonObject, JsonValue, Message } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createRouterTransport, type Transport } from "@connectrpc/connect";
import { type CommandStartedEvent, type Db, type Document, type IndexDescriptionInfo, MongoClient } from "mongodb";
import { afterAll, beforeAll, expect, test } from "vitest";

import { BlockService } from "../../gen/lucid/repository/v1/block_service_pb.ts";
import { ManifestService } from "../../gen/lucid/repository/v1/manifest_service_pb.ts";
import { SessionService } from "../../gen/lucid/repository/v1/session_service_pb.ts";
import { TransactionService } from "../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { TrustPolicyService } from "../../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import { UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { WalletService } from "../../gen/lucid/repository/v1/wallet_service_pb.ts";
import { blockService } from "../../src/repository/block.ts";
import { manifestService } from "../../src/repository/manifest.ts";
import { sessionService } from "../../src/repository/session.ts";
import { transactionService } from "../../src/repository/transaction.ts";
import { trustPolicyService } from "../../src/repository/trust-policy.ts";
import { userService } from "../../src/repository/user.ts";
import { walletService } from "../../src/repository/wallet.ts";
import { watchesOf } from "../../src/repository/watch/watches.ts";
import { pageTokens } from "../../src/schema/page-tokens.ts";
import { validationInterceptor } from "../../src/server/interceptors/validation.ts";
import { callWith, filledRequest, platformServices } from "../support/requests.ts";
import { type Query, stagesOf, whyNotServed } from "../support/served.ts";
import { type StoredIds, storedIds } from "../support/stored-ids.ts";
import { storeAddresses, uniqueName } from "../support/stores.ts";
import { patientCollections } from "./support.ts";

const noSideEffects = MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS;

/** A statement that handlers sent. */
interface Asked {
  readonly collection: string;
  readonly command: Document;
}

/** What handlers use, and what the test itself does. */
const parts = new AsyncDisposableStack();
let db: Db;
let transport: Transport;
const asked: Asked[] = [];

beforeAll(async () => {
  const uri = storeAddresses().mongodbUri;
  const watched = parts.use(await MongoClient.connect(uri, { monitorCommands: true }));
  db = parts.use(await MongoClient.connect(uri)).db(uniqueName("plans"), { useBigInt64: true });
  parts.defer(async () => void (await db.dropDatabase()));
  watched.on("commandStarted", ({ commandName, command }: CommandStartedEvent) => {
    if (!["find", "aggregate", "findAndModify", "update", "delete"].includes(commandName)) return;
    asked.push({ collection: String(command[commandName]), command });
  });
  const collections = patientCollections(db);
  await collections.ready();
  const tokens = pageTokens("");
  const shared = { db: watched.db(db.databaseName, { useBigInt64: true }), pageTokens: async () => tokens };
  const draining = new AbortController().signal;
  const watches = watchesOf({ ...shared, settings: { bufferedChanges: 100, bufferedBytes: 100_000 }, draining });
  parts.use(watches);
  const options = { ...shared, collections, watches };
  transport = createRouterTransport(
    ({ service }) => {
      service(BlockService, blockService(options));
      service(ManifestService, manifestService(options));
      service(SessionService, sessionService(options));
      service(TransactionService, transactionService(options));
      service(TrustPolicyService, trustPolicyService(options));
      service(UserService, userService({ ...options, settings: { lockAfterFailures: 3, lockMinutes: 1 } }));
      service(WalletService, walletService(options));
    },
    { router: { interceptors: [validationInterceptor()] } },
  );
  // Enough of each that a list has a second page.
  const creating = methods.filter(({ name }) => /^(Create|Register|Add)/.test(name));
  for (const method of [...creating, ...creating, ...creating]) await call(method, await storedIds(db));
});
afterAll(() => parts.disposeAsync());

/** The audit log has a database of its own, jobs are not of the domain, and copies are in Redis. */
const elsewhere = new Set(["AuditLogService", "DataLifecycleService", "DocumentCacheService"]);

const services = platformServices().filter(
  ({ typeName, name }) => typeName.startsWith("lucid.repository.") && !elsewhere.has(name),
);
const methods = services.flatMap(({ methods: own }) => own);

/** Fields that say which page is wanted, and not of what. */
const ofPages = new Set(["page_size", "page_token", "order_by", "etag", "request_id"]);

/** Paths of what a request can be restricted by: its fields, and those of its filter. */
function restrictionsOf({ fields }: DescMessage, path = ""): string[] {
  return fields.flatMap((field) => {
    if (ofPages.has(field.name)) return [];
    const at = path + field.name;
    return field.name === "filter" && field.message !== undefined ? restrictionsOf(field.message, `${at}.`) : [at];
  });
}

/** A request with what `paths` name, if given, and with ids that are there. */
function requestFor(method: DescMethod, ids: StoredIds, paths?: ReadonlySet<string>): JsonObject {
  const all = new Set(restrictionsOf(method.input));
  return filledRequest(method.input, (field: DescField, path: string): JsonValue | undefined => {
    if (ofPages.has(field.name)) return null;
    if (paths !== undefined && all.has(path) && !paths.has(path)) return null;
    if (field.name.startsWith("show_")) return true;
    // Fits what every search takes: the start of a name and of a hash.
    if (field.name === "query") return "abcdef";
    const id = ids.get(field.name.replace(/_ids$/, "_id"));
    if (id === undefined) return undefined;
    return field.fieldKind === "list" ? [id] : id;
  });
}

async function call(method: DescMethod, ids: StoredIds, paths?: ReadonlySet<string>): Promise<readonly Message[]> {
  return send(method, requestFor(method, ids, paths));
}

/** Responses of a call; none where it was refused for what it asks for. */
async function send(method: DescMethod, request: JsonObject): Promise<readonly Message[]> {
  try {
    return await callWith(transport, method, request);
  } catch (error) {
    const { code, message } = ConnectError.from(error);
    const isRefused = [
      Code.InvalidArgument,
      Code.NotFound,
      Code.FailedPrecondition,
      Code.AlreadyExists,
      Code.OutOfRange,
    ].includes(code);
    if (!isRefused) throw new Error(`${method.name}: ${message}`, { cause: error });
    return [];
  }
}

/** Sets of at most two of these, and all of them. */
function choicesOf(paths: readonly string[]): ReadonlySet<string>[] {
  const pairs = paths.flatMap((one, index) => paths.slice(index + 1).map((other) => [one, other]));
  return [[], ...paths.map((path) => [path]), ...pairs, paths].map((choice) => new Set(choice));
}

/** Sends a reading call with everything that it can be asked for: restrictions, orders, the first page and the second. */
async function exercise(method: DescMethod, ids: StoredIds): Promise<void> {
  const isList = method.input.fields.some(({ name }) => name === "page_token");
  const paths = restrictionsOf(method.input);
  const needed = paths.filter((path) => path.endsWith("_id") && !path.includes("."));
  const optional = paths.filter((path) => !needed.includes(path));
  for (const choice of choicesOf(optional)) {
    const request = requestFor(method, ids, new Set([...needed, ...choice]));
    const before = asked.length;
    await turn(method, request, isList);
    if (!method.input.fields.some(({ name }) => name === "order_by")) continue;
    const found = asked.slice(before).find(({ command }) => command["sort"] !== undefined);
    const names = new Set((found ? await indexesOf(found.collection) : []).flatMap(({ key }) => Object.keys(key)));
    if (choice.size > 1) continue;
    for (const name of names) {
      for (const orderBy of [name, `${name} desc`]) await turn(method, { ...request, order_by: orderBy }, isList);
    }
  }
}

async function turn(method: DescMethod, request: JsonObject, isList: boolean): Promise<void> {
  const [page] = await send(method, isList ? { ...request, page_size: 1 } : request);
  const token = (page as { nextPageToken?: string } | undefined)?.nextPageToken ?? "";
  if (token !== "") await send(method, { ...request, page_size: 1, page_token: token });
}

const known = new Map<string, readonly IndexDescriptionInfo[]>();

async function indexesOf(collection: string): Promise<readonly IndexDescriptionInfo[]> {
  const found = known.get(collection) ?? (await db.collection(collection).indexes());
  known.set(collection, found);
  return found;
}

/** What a statement looks for, and in which order. */
function queriesOf({ command }: Asked): Query[] {
  const { find, filter = {}, sort, query } = command;
  if (find !== undefined) return [queryOf(filter, sort)];
  if (command["pipeline"] !== undefined) {
    const [first, second] = command["pipeline"] as Document[];
    return [queryOf(first?.["$match"] ?? {}, second?.["$sort"])];
  }
  if (query !== undefined) return [queryOf(query, sort)];
  const statements = (command["updates"] ?? command["deletes"]) as { q: Document }[];
  return statements.map(({ q }) => queryOf(q, undefined));
}

/** The driver sends an order as a Map. */
function queryOf(filter: unknown, sort: unknown): Query {
  const order = sort instanceof Map ? (Object.fromEntries(sort) as Document) : (sort as Document | undefined);
  return { filter: filter as Document, ...(order !== undefined && { sort: order }) };
}

/** Counts look at all that they count, watches have no end, and the last ones look at nothing that is stored. */
const exempt = /^(Count.*|Watch.*|VerifyInclusionProof|VerifyInclusionMultiProof|VerifyConsistencyProof)$/;

const reading = methods.filter(({ idempotency, name }) => idempotency === noSideEffects && !exempt.test(name));

/** Finds of all calls, for the server's own planner. */
const finds: Document[] = [];

test.for(reading.map((method): [string, DescMethod] => [`${method.parent.name}.${method.name}`, method]))(
  "%s reads from an index and in its order, whatever it is asked for",
  async ([, method]) => {
    asked.length = 0;
    await exercise(method, await storedIds(db));
    const taken = asked.splice(0);
    const unserved = new Set<string>();
    for (const each of taken) {
      const indexes = await indexesOf(each.collection);
      for (const query of queriesOf(each)) {
        const why = whyNotServed(query, indexes);
        if (why !== undefined) unserved.add(`${each.collection} ${inspect(query, { depth: 9 })}: ${why}`);
      }
    }
    expect([...unserved]).toEqual([]);
    expect(taken.length).toBeGreaterThan(0);
    finds.push(...taken.map(({ command }) => command).filter(({ find }) => find !== undefined));
  },
);

test("the server's own planner reads them from an index, too", async ({ skip }) => {
  if (!(await usesIndexBesideFilter())) skip("this server scans where a filter names a field outside the index");
  expect(finds.length).toBeGreaterThan(500);
  const different = new Map(finds.map((command) => [shapeOf(command), command]));
  for (const { find, filter, sort, limit } of different.values()) {
    const explained = { find, filter, ...(sort && { sort }), ...(limit && { limit }) };
    const plan = await db.command({ explain: explained, verbosity: "queryPlanner" });
    const stages = stagesOf(plan["queryPlanner"]);
    expect(stages, inspect([explained, plan], { depth: 9 })).not.toContain("COLLSCAN");
    expect(stages.length).toBeGreaterThan(0);
  }
});

/** Statements that differ in values only have the same plan. */
function shapeOf({ find, filter, sort }: Document): string {
  const values = (_: string, value: unknown) => (typeof value === "object" ? value : "value");
  return JSON.stringify([find, filter, [...((sort as Map<string, number> | undefined) ?? [])]], values);
}

/** MongoDB looks a unique key up by its index and filters what it finds; the planner of the local server does not. */
async function usesIndexBesideFilter(): Promise<boolean> {
  const probe = db.collection("probe");
  await probe.createIndex({ key: 1 }, { unique: true });
  await probe.insertMany(Array.from({ length: 100 }, (_, key) => ({ key })));
  const plan = (await probe.find({ key: 1, other: null }).explain("queryPlanner")) as { queryPlanner: Document };
  return !stagesOf(plan.queryPlanner["winningPlan"]).includes("COLLSCAN");
}

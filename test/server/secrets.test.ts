import { randomBytes } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

import {
  createRegistry,
  type DescField,
  type DescMessage,
  type DescMethod,
  getOption,
  type JsonValue,
  type Message,
  ScalarType,
  toBinary,
  toJsonString,
} from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import { ConnectError } from "@connectrpc/connect";
import { Binary, serialize } from "bson";
import type { Db } from "mongodb";
import { expect, test } from "vitest";

import {
  BadRequestSchema,
  ErrorInfoSchema,
  ResourceInfoSchema,
  RetryInfoSchema,
} from "../../gen/google/rpc/error_details_pb.ts";
import { BackupService, JobState } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import { collection as collectionOption } from "../../gen/lucid/options/v1/options_pb.ts";
import { storedMessages } from "../../src/repository/collections.ts";
import { eventsOf } from "../backup/support.ts";
import { testApp } from "../support/app.ts";
import { callWith, type Choose, filledRequest, platformServices } from "../support/requests.ts";

/** What every secret is in this test: hex, so that it fits most rules. */
const canary = Buffer.from(randomBytes(16).toString("hex"));

/** The forms in which it could come out. */
const forms: readonly Buffer[] = [canary, Buffer.from(canary.toString("base64")), Buffer.from(canary.toString("hex"))];

const holdsCanary = (bytes: Uint8Array): boolean => forms.some((form) => Buffer.from(bytes).includes(form));

const isSecret = (field: DescField): boolean => field.proto.options?.debugRedact === true;

const isReading = ({ idempotency }: DescMethod): boolean =>
  idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS;

/** What a status in a response may hold. */
const detailTypes = createRegistry(ErrorInfoSchema, BadRequestSchema, ResourceInfoSchema, RetryInfoSchema);

/** What a call said, in the forms that the wire has, errors with their details included. */
function said(method: DescMethod, outcome: readonly Message[] | ConnectError): Buffer {
  if (outcome instanceof ConnectError) {
    const details = outcome.details.map((detail) => ("value" in detail ? detail.value : new Uint8Array()));
    const text = Buffer.from(outcome.message + JSON.stringify([...outcome.metadata]));
    return Buffer.concat([
      text,
      ...details.map((value) => (value instanceof Uint8Array ? value : Buffer.from(JSON.stringify(value)))),
    ]);
  }
  return Buffer.concat(
    outcome.flatMap((message) => [
      Buffer.from(toBinary(method.output, message)),
      Buffer.from(toJsonString(method.output, message, { registry: detailTypes })),
    ]),
  );
}

/** The canary, for a field that is secret. */
function secretValue(field: DescField): JsonValue | undefined {
  if (!isSecret(field)) return undefined;
  const value = field.scalar === ScalarType.BYTES ? canary.toString("base64") : canary.toString();
  return field.fieldKind === "list" ? [value] : value;
}

/** Names and values of ids that are stored, one of each name. */
async function knownIds(db: Db): Promise<Map<string, string>> {
  const collections = await db.listCollections({}, { nameOnly: true }).toArray();
  const newest = await Promise.all(
    collections.map(({ name }) => db.collection(name).find().sort({ _id: -1 }).limit(1).toArray()),
  );
  const ids = newest
    .flat()
    .flatMap((document) => Object.entries(document))
    .filter((entry): entry is [string, string] => entry[0].endsWith("_id") && typeof entry[1] === "string");
  return new Map(ids);
}

function idValue(field: DescField, known: ReadonlyMap<string, string>): JsonValue | undefined {
  const value = field.scalar === ScalarType.STRING ? known.get(field.name.replace(/_ids$/, "_id")) : undefined;
  return value !== undefined && field.fieldKind === "list" ? [value] : value;
}

/** Secret fields of a message that no stored document holds. */
async function missingSecrets(db: Db, schema: DescMessage): Promise<string[]> {
  const stored = db.collection(getOption(schema, collectionOption).name);
  const missing: string[] = [];
  for (const field of schema.fields.filter(isSecret)) {
    const value = field.scalar === ScalarType.BYTES ? new Binary(canary) : canary.toString();
    if ((await stored.countDocuments({ [field.name]: value })) === 0) missing.push(field.name);
  }
  return missing;
}

/** Stores secrets that no rpc takes: another service writes them. */
async function storeAsOthersDo(db: Db, schema: DescMessage): Promise<void> {
  const secrets = schema.fields
    .filter(isSecret)
    .map(({ name, scalar }) => [name, scalar === ScalarType.BYTES ? new Binary(canary) : canary.toString()] as const);
  const stored = db.collection(getOption(schema, collectionOption).name);
  await stored.insertOne(Object.fromEntries(secrets), { bypassDocumentValidation: true });
}

/** A message and all that it holds. */
function within(message: DescMessage, seen = new Set<DescMessage>()): Set<DescMessage> {
  if (seen.has(message)) return seen;
  seen.add(message);
  for (const field of message.fields) if (field.message !== undefined) within(field.message, seen);
  return seen;
}

test("what is secret comes out nowhere: no response, error, log line, other document or backup holds it", async () => {
  const lines: string[] = [];
  // Nothing here waits for a lease to run out, and a busy machine may hold this process up.
  await using app = await testApp({ LUCID_JOB_LEASE_MS: "30000" }, { logTo: (line) => void lines.push(line) });
  const { database, systemDatabase } = app.config.mongodb;
  const [domain, system] = [app.mongodb.db(database), app.mongodb.db(systemDatabase)];

  const all = platformServices().flatMap(({ methods: own }) => own);
  // What administers the stores would remove what is looked for; it only reads here.
  const isAdministration = ({ parent }: DescMethod) => parent.typeName.startsWith("lucid.admin.");
  const methods = all.filter((method) => !isAdministration(method));
  const outcomes: [DescMethod, readonly Message[] | ConnectError][] = [];
  /** Calls it on each listener; tells whether it was done. */
  const call = async (method: DescMethod, known: ReadonlyMap<string, string>): Promise<boolean> => {
    let isDone = false;
    const choose: Choose = (field) => secretValue(field) ?? idValue(field, known);
    for (const transport of Object.values(app.transports)) {
      const outcome = await callWith(transport, method, filledRequest(method.input, choose)).catch((cause: unknown) =>
        ConnectError.from(cause),
      );
      outcomes.push([method, outcome]);
      isDone ||= !(outcome instanceof ConnectError);
    }
    return isDone;
  };
  const writing = methods.filter((method) => !isReading(method));
  const creating = writing.filter(({ name }) => /^(Create|Register|Add|Batch)/.test(name));
  let stored = await knownIds(domain);
  for (const method of [...creating, ...creating, ...writing]) {
    // What was refused has stored nothing.
    if (await call(method, stored)) stored = await knownIds(domain);
  }

  const secretMessages = storedMessages.filter(({ fields }) => fields.some(isSecret));
  const sent = new Set(methods.flatMap(({ input }) => [...within(input)].map(({ typeName }) => typeName)));
  for (const schema of secretMessages) if (!sent.has(schema.typeName)) await storeAsOthersDo(domain, schema);
  // Else this test would show nothing.
  for (const schema of secretMessages) expect(await missingSecrets(domain, schema), schema.typeName).toEqual([]);

  const backups = app.client(BackupService);
  // The other servers hold what is of other tests; of this one nothing but copies, which are in no backup.
  const selection = { stores: [Store.MONGODB], mongodbNamespaces: [domain.databaseName] };
  const backupId = (await backups.createBackup({ selection })).backup?.backupId ?? "";
  const taken = (await eventsOf(backups.watchBackup({ backupId }))).at(-1);
  expect(taken, taken?.error?.message).toMatchObject({ state: JobState.SUCCEEDED });
  outcomes.push([BackupService.method.getBackup, [await backups.getBackup({ backupId })]]);

  const known = await knownIds(domain);
  for (const method of methods.filter(isReading)) await call(method, known);
  expect(outcomes.filter(([, outcome]) => !(outcome instanceof ConnectError)).length).toBeGreaterThan(methods.length);
  for (const method of all.filter((each) => isAdministration(each) && isReading(each))) await call(method, known);

  const leaking = outcomes.filter(([method, outcome]) => holdsCanary(said(method, outcome)));
  expect(leaking.map(([{ parent, name }]) => `${parent.name}.${name}`)).toEqual([]);
  expect(lines.filter((line) => holdsCanary(Buffer.from(line)))).toEqual([]);
  const allowed = new Set(secretMessages.map((schema) => getOption(schema, collectionOption).name));
  for (const db of [domain, system]) {
    for (const { name } of await db.listCollections({}, { nameOnly: true }).toArray()) {
      if (db === domain && allowed.has(name)) continue;
      for await (const document of db.collection(name).find())
        expect(holdsCanary(serialize(document)), name).toBe(false);
    }
  }
  const files = await readdir(app.config.backup.dir, { recursive: true, withFileTypes: true });
  for (const file of files.filter((entry) => entry.isFile()))
    expect(holdsCanary(await readFile(join(file.parentPath, file.name))), file.name).toBe(false);
});

test("what is named like a secret is marked as one, in every message", () => {
  const named =
    /(^|_)(password|secret|salt|private_key|encryption_key|api_keys?|token_hash|key_derivation_path)(_|s?$)/;
  const messages = platformServices().flatMap(({ methods }) => methods.flatMap(({ input, output }) => [input, output]));
  const seen = new Set([...messages, ...storedMessages].flatMap((message) => [...within(message)]));
  const unmarked = [...seen].flatMap(({ fields }) =>
    fields.filter((field) => field.scalar !== undefined && named.test(field.name) && !isSecret(field)),
  );
  expect(unmarked.map(({ parent, name }) => `${parent.typeName}.${name}`)).toEqual([]);
});

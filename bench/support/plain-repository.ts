import { randomUUIDv7 } from "node:crypto";

import { create, type DescMessage, type DescMethod, fromJson, type JsonObject, type Message } from "@bufbuild/protobuf";
import { type Db, type Document, ObjectId } from "mongodb";

import { collectionOf } from "../../src/schema/collection.ts";
import type { PlainAudit } from "./plain-audit.ts";
import { toDocument, toMessage } from "./plain-mapping.ts";
import { bounded, type RepositoryRow } from "./repository-rows.ts";

/** What a server does for a repository that makes its driver calls and nothing else: no checks and no errors. */
export interface PlainRepository {
  readonly get: DescMethod;
  readonly list: DescMethod;
  readonly create: DescMethod | undefined;
  /** How an rpc is answered. */
  answer(method: DescMethod, request: Message): Promise<Message>;
  /** The driver calls alone. */
  find(id: string): Promise<Document | null>;
  findMany(size: number): Promise<Document[]>;
  insert(request: Message): Promise<Document>;
  /** The request that creates the one with a number. */
  made(number: number, lastId: (entity: DescMessage) => string): Message;
}

/** With `audit` each that is created leaves a record. */
export function plainRepository(row: RepositoryRow, db: Db, audit?: PlainAudit): PlainRepository {
  const { service, entity, plural, live, listed, sort } = row;
  const collection = db.collection(collectionOf(entity).name);
  const id = entity.fields.find(({ name }) => name === row.id);
  if (id === undefined) throw new Error(`${entity.typeName} has no ${row.id}`);
  const [read, write] = [toMessage(entity), toDocument(entity)];
  const method = (name: string): DescMethod => {
    const found = service.methods.find((candidate) => candidate.name === name);
    if (found === undefined) throw new Error(`${service.typeName} has no rpc ${name}`);
    return found;
  };
  const [get, list] = [method(`Get${entity.name}`), method(`List${plural}`)];
  const creating = row.made === undefined ? undefined : method(`Create${entity.name}`);

  const find = async (wanted: string) => {
    const [found] = await Promise.all([
      collection.findOne({ [id.name]: wanted, ...live }, bounded),
      row.beside?.(db, [wanted]),
    ]);
    return found;
  };
  const findMany = async (size: number) => {
    const found = await collection.find(listed, { sort, limit: size + 1, batchSize: size + 2, ...bounded }).toArray();
    const page = found.slice(0, size);
    await row.beside?.(
      db,
      page.map((document) => document[id.name] as string),
    );
    return page;
  };
  /** What the service stores besides what was sent, taken from the newest document that it has stored. */
  let stored: Document | undefined;
  const insert = async (request: Message) => {
    stored ??= (await collection.findOne({}, { sort })) ?? {};
    const { _id, _audit, ...rest } = stored;
    const now = new Date();
    const document: Document = {
      _id: new ObjectId(),
      ...rest,
      [id.name]: randomUUIDv7(),
      ...write(valueIn(request, entity)),
      created_at: now,
      updated_at: now,
      revision: 1n,
    };
    const name = document[id.name] as string;
    const record = creating && audit?.recordOf(creating, request, { type: entity.name, name });
    const inserted = record === undefined ? document : { ...document, _audit: [record] };
    await row.before?.(db, inserted);
    await collection.insertOne(inserted, bounded);
    await row.after?.(db, inserted);
    if (record !== undefined) audit?.stored(collection, id.name, name, record);
    return document;
  };

  return {
    get,
    list,
    create: creating,
    find,
    findMany,
    insert,
    made: (number, lastId) => fromJson(method(`Create${entity.name}`).input, row.made?.(number, lastId) as JsonObject),
    async answer({ name, output }, request) {
      // The members are those of the requests' protos.
      const sent = request as unknown as Readonly<Record<string, unknown>>;
      const field = fieldOf(output, entity);
      if (name === list.name) {
        const found = await findMany(sent["pageSize"] as number);
        return create(output, { [field]: found.map(read) });
      }
      const found = name === get.name ? await find(sent[id.localName] as string) : await insert(request);
      return create(output, { [field]: read(found ?? {}) });
    },
  };
}

/** Where a request or response has an entity, or several. */
function fieldOf(schema: DescMessage, entity: DescMessage): string {
  const found = schema.fields.find((field) => field.message === entity);
  if (found === undefined) throw new Error(`${schema.typeName} has no ${entity.name}`);
  return found.localName;
}

function valueIn(request: Message, entity: DescMessage): Message {
  const values = Object.values(request) as (Message | undefined)[]; // those that are no messages have no type
  const found = values.find((value) => value?.$typeName === entity.typeName);
  if (found === undefined) throw new Error(`There is no ${entity.name} in the request`);
  return found;
}

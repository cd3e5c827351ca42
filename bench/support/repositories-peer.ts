import { type DescMethod, fromBinary, type Message, toBinary } from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";
import { MongoClient } from "mongodb";

import { plainAudit } from "./plain-audit.ts";
import { plainRepository } from "./plain-repository.ts";
import { databaseOf, rows, systemDatabase } from "./repository-rows.ts";

/**
 * What repositories are measured against: @grpc/grpc-js, protobuf-es and the driver, and nothing else. Arguments: URI, and `audited`
 * for one that keeps an audit log. Prints its port.
 */
const [uri = "", kind] = process.argv.slice(2);
const client = await MongoClient.connect(uri);
const server = new grpc.Server();
const audit = kind === "audited" ? plainAudit(client.db(systemDatabase)) : undefined;

for (const row of rows) {
  const repository = plainRepository(row, databaseOf(row, client), audit);
  const methods = [repository.get, repository.list, repository.create].filter((method) => method !== undefined);
  server.addService(
    Object.fromEntries(methods.map((method) => [method.localName, definitionOf(method)])),
    Object.fromEntries(
      methods.map((method) => [
        method.localName,
        ({ request }: { request: Message }, callback: grpc.sendUnaryData<Message>) =>
          void answer(() => repository.answer(method, request), callback),
      ]),
    ),
  );
}

async function answer(work: () => Promise<Message>, callback: grpc.sendUnaryData<Message>): Promise<void> {
  try {
    const message = await work();
    callback(null, message);
  } catch (error) {
    callback(error instanceof Error ? error : new Error(String(error)));
  }
}

function definitionOf({ parent, name, input, output }: DescMethod) {
  return {
    path: `/${parent.typeName}/${name}`,
    requestStream: false as const,
    responseStream: false as const,
    requestSerialize: (message: Message) => Buffer.from(toBinary(input, message)),
    requestDeserialize: (bytes: Buffer) => fromBinary(input, bytes),
    responseSerialize: (message: Message) => Buffer.from(toBinary(output, message)),
    responseDeserialize: (bytes: Buffer) => fromBinary(output, bytes),
  };
}

server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error !== null) throw error;
  process.stdout.write(`${port}\n`);
});

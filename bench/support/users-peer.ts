import { randomUUIDv7 } from "node:crypto";

import { create, fromBinary, type MessageInitShape, type Message, toBinary } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import * as grpc from "@grpc/grpc-js";
import { type Document, MongoClient } from "mongodb";

import { type User, UserRole, UserSchema, UserStatus } from "../../gen/lucid/repository/v1/user_pb.ts";
import {
  type CreateUserRequest,
  CreateUserRequestSchema,
  CreateUserResponseSchema,
  GetUserRequestSchema,
  GetUserResponseSchema,
  ListUsersRequestSchema,
  ListUsersResponseSchema,
} from "../../gen/lucid/repository/v1/user_service_pb.ts";

/**
 * What users are measured against: @grpc/grpc-js, protobuf-es and the driver, with documents mapped to messages by hand
 * and nothing else: no checks, no errors, no deadlines. Arguments: URI and database. Prints its port.
 */
const [uri = "", database = ""] = process.argv.slice(2);
const client = await MongoClient.connect(uri);
const users = client.db(database).collection("users");

/** What the service stores of such a user. */
function toDocument(user: User): Document {
  const now = new Date();
  return {
    user_id: randomUUIDv7(),
    email: user.email,
    username: user.username,
    tron_address: user.tronAddress,
    role: "USER",
    status: "PENDING_VERIFICATION",
    profile: { display_name: user.profile?.displayName, bio: user.profile?.bio },
    preferences: {
      language: "en",
      timezone: "UTC",
      email_notifications: true,
      session_notifications: true,
      payout_notifications: true,
      theme: "dark",
      auto_anchor_sessions: true,
    },
    email_verified: false,
    tron_verified: false,
    is_node_operator: false,
    total_sessions: 0n,
    total_chunks_uploaded: 0n,
    total_storage_used: 0n,
    failed_login_attempts: 0,
    created_at: now,
    updated_at: now,
    revision: 1n,
  };
}

function toUser(document: Document): User {
  // The documents were written by the service; the fields that these users have are mapped.
  const init: MessageInitShape<typeof UserSchema> = {
    userId: document["user_id"],
    email: document["email"],
    username: document["username"],
    tronAddress: document["tron_address"],
    role: UserRole[document["role"] as keyof typeof UserRole],
    status: UserStatus[document["status"] as keyof typeof UserStatus],
    profile: { displayName: document["profile"]?.display_name, bio: document["profile"]?.bio },
    preferences: { language: document["preferences"]?.language ?? "", theme: document["preferences"]?.theme ?? "" },
    totalSessions: BigInt(document["total_sessions"] ?? 0),
    totalChunksUploaded: BigInt(document["total_chunks_uploaded"] ?? 0),
    totalStorageUsed: BigInt(document["total_storage_used"] ?? 0),
    createdAt: timestampFromDate(document["created_at"]),
    updatedAt: timestampFromDate(document["updated_at"]),
    revision: BigInt(document["revision"]),
    etag: `"${document["revision"]}"`,
  };
  return create(UserSchema, init);
}

const server = new grpc.Server();
const method = (path: string, input: Parameters<typeof fromBinary>[0], output: Parameters<typeof fromBinary>[0]) => ({
  path,
  requestStream: false as const,
  responseStream: false as const,
  requestSerialize: (message: Message) => Buffer.from(toBinary(input, message)),
  requestDeserialize: (bytes: Buffer) => fromBinary(input, bytes),
  responseSerialize: (message: Message) => Buffer.from(toBinary(output, message)),
  responseDeserialize: (bytes: Buffer) => fromBinary(output, bytes),
});
const answer = async (work: () => Promise<Message>, callback: grpc.sendUnaryData<Message>) => {
  try {
    const message = await work();
    callback(null, message);
  } catch (error) {
    callback(error instanceof Error ? error : new Error(String(error)));
  }
};
server.addService(
  {
    createUser: method(
      "/lucid.repository.v1.UserService/CreateUser",
      CreateUserRequestSchema,
      CreateUserResponseSchema,
    ),
    getUser: method("/lucid.repository.v1.UserService/GetUser", GetUserRequestSchema, GetUserResponseSchema),
    listUsers: method("/lucid.repository.v1.UserService/ListUsers", ListUsersRequestSchema, ListUsersResponseSchema),
  },
  {
    createUser: ({ request }: { request: CreateUserRequest }, callback: grpc.sendUnaryData<Message>) => {
      const write = async () => {
        const document = toDocument(request.user ?? create(UserSchema));
        await users.insertOne(document);
        return create(CreateUserResponseSchema, { user: toUser(document) });
      };
      void answer(write, callback);
    },
    getUser: ({ request }: { request: { userId: string } }, callback: grpc.sendUnaryData<Message>) => {
      const read = async () => {
        const found = await users.findOne({ user_id: request.userId, deleted_at: null });
        return create(GetUserResponseSchema, { user: toUser(found ?? {}) });
      };
      void answer(read, callback);
    },
    listUsers: ({ request }: { request: { pageSize: number } }, callback: grpc.sendUnaryData<Message>) => {
      const read = async () => {
        const sort = { created_at: -1, user_id: -1 } as const;
        const cursor = users.find({ deleted_at: null }, { sort, limit: request.pageSize + 1, singleBatch: true });
        const found = await cursor.toArray();
        return create(ListUsersResponseSchema, { users: found.slice(0, request.pageSize).map(toUser) });
      };
      void answer(read, callback);
    },
  },
);
server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error !== null) throw error;
  process.stdout.write(`${port}\n`);
});

import { once } from "node:events";
import process from "node:process";

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";

import { grpcListener } from "../../src/server/grpc.ts";
import { httpListener } from "../../src/server/http.ts";
import { serve } from "../../src/server/registration.ts";
import {
  ServerCompatRequestSchema,
  ServerCompatResponseSchema,
} from "./gen/connectrpc/conformance/v1/server_compat_pb.ts";
import { ConformanceService } from "./gen/connectrpc/conformance/v1/service_pb.ts";
import { conformanceService } from "./service.ts";

/**
 * One server under test of `connectconformance`: reads what it is to be from stdin, says on stdout where it listens, and stops
 * at SIGTERM. `grpc` or `http` as the first argument says which listener.
 */
const terminated = once(process, "SIGTERM");
const { messageReceiveLimit } = fromBinary(ServerCompatRequestSchema, await readMessage());
const options = {
  registrations: [serve(ConformanceService, conformanceService)],
  interceptors: [],
  host: "127.0.0.1",
  port: 0,
  maxMessageBytes: messageReceiveLimit === 0 ? 16 * 1024 * 1024 : messageReceiveLimit,
  // The suite wants to see the deadline that it sent, or none.
  defaultDeadlineMs: Infinity,
  log: { error: (facts: object, message: string) => process.stderr.write(`${message} ${JSON.stringify(facts)}\n`) },
};
const pages = { ready: async () => true, metrics: async () => ({ type: "text/plain", text: "" }) };
await using listener =
  process.argv[2] === "grpc"
    ? await grpcListener({ ...options, maxConnectionAgeMs: 3_600_000 })
    : await httpListener({ ...options, pages });
const { host, port } = listener;
const response = toBinary(ServerCompatResponseSchema, create(ServerCompatResponseSchema, { host, port }));
const length = Buffer.alloc(4);
length.writeUInt32BE(response.byteLength);
process.stdout.write(Buffer.concat([length, response]));
await terminated;

/** A message of stdin, which follows its length. */
async function readMessage(): Promise<Uint8Array> {
  let read = Buffer.alloc(0);
  for await (const chunk of process.stdin) {
    read = Buffer.concat([read, chunk]);
    if (read.length >= 4 && read.length >= 4 + read.readUInt32BE(0)) break;
  }
  return read.subarray(4, 4 + read.readUInt32BE(0));
}

import { createServer } from "node:http2";
import type { AddressInfo } from "node:net";

import { create, fromBinary, type Message, toBinary } from "@bufbuild/protobuf";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import * as grpc from "@grpc/grpc-js";

import {
  BackupService,
  GetBackupRequestSchema,
  GetBackupResponseSchema,
} from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { grpcListener } from "../../src/server/grpc.ts";
import { errorInterceptor } from "../../src/server/interceptors/errors.ts";
import { measurementInterceptor } from "../../src/server/interceptors/measurement.ts";
import { validationInterceptor } from "../../src/server/interceptors/validation.ts";
import { requestRefusals } from "../../src/server/request-refusals.ts";
import { translateStoreError } from "../../src/stores/errors.ts";
import { latencyRecorder } from "../../src/stores/latency.ts";
import type { WireKind } from "./wire-kinds.ts";

/** One server of the benchmark of wires, the kind of which is its argument. All do the same: nothing. Prints its port. */
// The benchmark that starts this names a kind.
const kind = process.argv[2] as WireKind;
const answer = (backupId: string) => ({ backup: { backupId, description: "a backup", itemCount: 42n } });
// One rpc of the service is called.
const registration = {
  service: BackupService,
  implementation: { getBackup: ({ backupId }: { backupId: string }) => answer(backupId) },
};
const log = {
  error: (facts: object, message: string) => process.stderr.write(`${message} ${JSON.stringify(facts)}\n`),
};
const common = { registrations: [registration], host: "127.0.0.1", port: 0, maxMessageBytes: 4 * 1024 * 1024, log };
const listen = {
  ...common,
  refusals: requestRefusals(common.maxMessageBytes),
  defaultDeadlineMs: 30_000,
  maxConnectionAgeMs: 3_600_000,
};

process.stdout.write(`${await serve()}\n`);

async function serve(): Promise<number> {
  switch (kind) {
    case "grpc-js":
      return serveBare();
    case "bridge":
      return (await grpcListener({ ...listen, interceptors: [] })).port;
    case "chain": {
      const latency = latencyRecorder();
      const interceptors = [
        measurementInterceptor((rpc, elapsedMs, failed) => latency.record("requests", rpc, elapsedMs, failed)),
        errorInterceptor({ translate: translateStoreError, log }),
        validationInterceptor(),
      ];
      return (await grpcListener({ ...listen, interceptors })).port;
    }
    case "connect-node": {
      const handler = connectNodeAdapter({
        routes: (router) => {
          router.service(BackupService, registration.implementation);
        },
      });
      const server = createServer(handler);
      await new Promise<void>((resolve) => void server.listen(0, "127.0.0.1", resolve));
      // A TCP server that listens has an address with a port.
      return (server.address() as AddressInfo).port;
    }
  }
}

/** What the bridge is measured against: @grpc/grpc-js and protobuf-es with nothing between. */
async function serveBare(): Promise<number> {
  const server = new grpc.Server();
  const method: grpc.MethodDefinition<Message, Message> = {
    path: `/${BackupService.typeName}/GetBackup`,
    requestStream: false,
    responseStream: false,
    requestSerialize: (message) => Buffer.from(toBinary(GetBackupRequestSchema, message as never)),
    requestDeserialize: (bytes) => fromBinary(GetBackupRequestSchema, bytes),
    responseSerialize: (message) => Buffer.from(toBinary(GetBackupResponseSchema, message as never)),
    responseDeserialize: (bytes) => fromBinary(GetBackupResponseSchema, bytes),
  };
  const getBackup: grpc.handleUnaryCall<{ backupId: string }, Message> = ({ request }, callback) =>
    callback(null, create(GetBackupResponseSchema, answer(request.backupId)));
  server.addService({ getBackup: method }, { getBackup });
  return new Promise((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) =>
      error === null ? resolve(port) : reject(error),
    );
  });
}

import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { expect, test } from "vitest";

import { BadRequestSchema } from "../../gen/google/rpc/error_details_pb.ts";
import {
  Health,
  type HealthCheckResponse,
  HealthCheckResponse_ServingStatus as Status,
} from "../../gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "../../gen/grpc/reflection/v1/reflection_pb.ts";
import { ServerReflection as ServerReflectionAlpha } from "../../gen/grpc/reflection/v1alpha/reflection_pb.ts";
import { BackupService } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import { MonitoringService } from "../../gen/lucid/admin/v1/monitoring_service_pb.ts";
import { reasonOf } from "../../src/errors.ts";
import { testApp } from "../support/app.ts";
import { NobodyService } from "./nobody.ts";

const unknownId = "00000000-0000-7000-8000-000000000000";

/** What a caller is told, the same on both listeners. */
const refusals: readonly {
  readonly name: string;
  readonly call: (transport: Transport) => Promise<unknown>;
  readonly code: Code;
  readonly reason?: string;
  readonly fields?: readonly string[];
}[] = [
  {
    name: "a field that breaks a rule",
    call: (transport) => createClient(BackupService, transport).getBackup({ backupId: "" }),
    code: Code.InvalidArgument,
    reason: "BAD_REQUEST",
    fields: ["backup_id"],
  },
  {
    name: "a field of a member of a list",
    call: (transport) =>
      createClient(BackupService, transport).createBackup({ selection: { redisKeyPatterns: ["a", ""] } }),
    code: Code.InvalidArgument,
    reason: "BAD_REQUEST",
    fields: ["selection.redis_key_patterns[1]"],
  },
  {
    name: "a bad request of a stream",
    call: (transport) => Array.fromAsync(createClient(BackupService, transport).watchBackup({ afterSequence: -1n })),
    code: Code.InvalidArgument,
    reason: "BAD_REQUEST",
    fields: ["backup_id", "after_sequence"],
  },
  {
    name: "an unknown id",
    call: (transport) => createClient(BackupService, transport).getBackup({ backupId: unknownId }),
    code: Code.NotFound,
    reason: "BACKUP_NOT_FOUND",
  },
  {
    name: "an unknown id of a stream",
    call: (transport) => Array.fromAsync(createClient(BackupService, transport).watchBackup({ backupId: unknownId })),
    code: Code.NotFound,
    reason: "BACKUP_NOT_FOUND",
  },
  {
    name: "a deadline that has passed",
    call: (transport) => Array.fromAsync(createClient(Health, transport).watch({}, { timeoutMs: 200 })),
    code: Code.DeadlineExceeded,
  },
  {
    name: "a message that is too large",
    call: (transport) => createClient(BackupService, transport).getBackup({ backupId: "x".repeat(5000) }),
    code: Code.ResourceExhausted,
  },
  {
    name: "an unknown rpc",
    call: (transport) => createClient(NobodyService, transport).check({}),
    code: Code.Unimplemented,
  },
];

test.for(refusals)("$name is told the same on both listeners", async ({ call, code, reason, fields = [] }) => {
  await using app = await testApp({ LUCID_MAX_MESSAGE_BYTES: "4096" });
  for (const transport of Object.values(app.transports)) {
    const [outcome] = await Promise.allSettled([call(transport)]);
    expect(outcome.status).toBe("rejected");
    const error = ConnectError.from(outcome.status === "rejected" ? outcome.reason : undefined);
    expect(Code[error.code]).toBe(Code[code]);
    if (reason !== undefined) expect(reasonOf(error)?.reason).toBe(reason);
    const named = error.findDetails(BadRequestSchema).flatMap(({ fieldViolations }) => fieldViolations);
    expect(named.map(({ field }) => field)).toEqual(fields);
  }
});

test("a store that is away is told so on both listeners, and the process still serves", async () => {
  await using app = await testApp({ LUCID_MONGODB_URI: "mongodb://127.0.0.1:1/?directConnection=true" });
  for (const transport of Object.values(app.transports)) {
    const backups = createClient(BackupService, transport);
    const [outcome] = await Promise.allSettled([backups.createBackup({ selection: { stores: [Store.MONGODB] } })]);
    const error = ConnectError.from(outcome.status === "rejected" ? outcome.reason : undefined);
    expect(reasonOf(error)).toMatchObject({ reason: "STORE_UNAVAILABLE", metadata: { store: "mongodb" } });
    expect(error.rawMessage).not.toContain("127.0.0.1");
    expect(await createClient(Health, transport).check({})).toMatchObject({ status: Status.NOT_SERVING });
  }
  const ready = await fetch(`http://${app.httpAddress}/readyz`);
  expect(ready.status).toBe(503);
});

test("plain HTTP answers liveness, readiness and metrics, and JSON calls", async () => {
  await using app = await testApp();
  const get = async (path: string) => {
    const response = await fetch(`http://${app.httpAddress}${path}`);
    return { status: response.status, text: await response.text() };
  };
  expect(await get("/livez")).toEqual({ status: 200, text: "ok\n" });
  await expect.poll(() => get("/readyz")).toEqual({ status: 200, text: "ok\n" });
  expect((await get("/metrics")).text).toContain("process_cpu_seconds_total");
  expect((await get("/other")).status).toBe(404);
  const listed = await fetch(`http://${app.httpAddress}/lucid.admin.v1.BackupService/ListBackups`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: "{}",
  });
  expect(await listed.json()).toEqual({});
});

test("health checks, lists and watches, and says that a drain has begun", async () => {
  await using app = await testApp();
  const health = app.client(Health);
  // A store that answers late is taken for one that is away.
  const check = () => health.check({ service: BackupService.typeName });
  await expect.poll(check).toMatchObject({ status: Status.SERVING });
  const listed = Object.keys((await health.list({})).statuses);
  expect(listed).toEqual(expect.arrayContaining(["", BackupService.typeName, MonitoringService.typeName]));
  await expect(health.check({ service: "other" })).rejects.toMatchObject({ code: Code.NotFound });
  const watch = health.watch({})[Symbol.asyncIterator]();
  const next = async () => ((await watch.next()).value as HealthCheckResponse).status;
  while ((await next()) !== Status.SERVING);
  const drained = app.drain(5000);
  while ((await next()) !== Status.NOT_SERVING);
  await expect(watch.next()).rejects.toMatchObject({ code: Code.Unavailable });
  await drained;
});

test.for([ServerReflection, ServerReflectionAlpha])("$typeName lists services and shows comments", async (version) => {
  await using app = await testApp();
  // Both versions have the same shape.
  const client = app.client(version as typeof ServerReflection);
  async function* requests() {
    yield { messageRequest: { case: "listServices" as const, value: "" } };
    yield { messageRequest: { case: "fileContainingSymbol" as const, value: BackupService.typeName } };
    yield { messageRequest: { case: "fileByFilename" as const, value: "lucid/admin/v1/common.proto" } };
    yield { messageRequest: { case: "allExtensionNumbersOfType" as const, value: "google.protobuf.MessageOptions" } };
    yield { messageRequest: { case: "fileContainingSymbol" as const, value: "nobody.Knows" } };
  }
  const answers = (await Array.fromAsync(client.serverReflectionInfo(requests()))).map(
    ({ messageResponse }) => messageResponse,
  );
  const [list, file, byName, extensions, unknown] = answers;
  const names = list?.case === "listServicesResponse" ? list.value.service.map(({ name }) => name) : [];
  expect(names).toContain(BackupService.typeName);
  expect(names).toContain(version.typeName);
  const text = file?.case === "fileDescriptorResponse" ? Buffer.concat(file.value.fileDescriptorProto).toString() : "";
  expect(text).toContain("Streams a backup's events after `after_sequence`");
  expect(byName?.case === "fileDescriptorResponse" && byName.value.fileDescriptorProto.length).toBe(1);
  expect(extensions?.case === "allExtensionNumbersResponse" && extensions.value.extensionNumber).toContain(50_001);
  expect(unknown).toMatchObject({ case: "errorResponse", value: { errorCode: Code.NotFound } });
});

test("a watch whose caller leaves ends at once", async () => {
  await using app = await testApp();
  const leaving = new AbortController();
  const watch = app.client(Health).watch({}, { signal: leaving.signal })[Symbol.asyncIterator]();
  await watch.next();
  leaving.abort();
  await expect(watch.next()).rejects.toMatchObject({ code: Code.Canceled });
  // A call that still ran would hold the drain up.
  const began = performance.now();
  await app.drain(150_000);
  expect(performance.now() - began).toBeLessThan(100_000);
});

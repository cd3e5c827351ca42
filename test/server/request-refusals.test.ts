import { once } from "node:events";
import { type ClientHttp2Session, connect } from "node:http2";
import { gzipSync } from "node:zlib";

import { create, type DescMethod, fromBinary, toBinary, toJsonString } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";

import { BadRequestSchema, ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { type Status, StatusSchema } from "../../gen/google/rpc/status_pb.ts";
import { BackupService } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { SessionService } from "../../gen/lucid/repository/v1/session_service_pb.ts";
import { ListUsersRequestSchema, UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { testApp, type TestApp } from "../support/app.ts";

type Codec = "proto" | "json";

interface Sent {
  readonly body: Uint8Array;
  readonly encoding?: "gzip";
}

interface Wire {
  readonly name: string;
  readonly listener: "grpc" | "http";
  readonly type: (codec: Codec) => string;
  readonly codecs: readonly Codec[];
  readonly kinds: readonly DescMethod["methodKind"][];
  readonly request: (sent: Sent) => { readonly body: Uint8Array; readonly headers: Record<string, string> };
  /** Finds the failure in what came back. */
  readonly status: (answer: Answer) => Status;
}

interface Answer {
  readonly headers: Readonly<Record<string, unknown>>;
  readonly trailers: Readonly<Record<string, unknown>>;
  readonly body: Buffer;
}

const everyKind = ["unary", "server_streaming", "client_streaming"] as const;
const envelopes = (encodingHeader: string) => (sent: Sent) => ({
  body: enveloped(sent),
  headers: sent.encoding === undefined ? {} : { [encodingHeader]: sent.encoding },
});

const wires: readonly Wire[] = [
  ...(["grpc", "http"] as const).map((listener): Wire => ({
    name: `gRPC on the ${listener} listener`,
    listener,
    type: (codec) => `application/grpc+${codec}`,
    codecs: listener === "grpc" ? ["proto"] : ["proto", "json"],
    kinds: everyKind,
    request: envelopes("grpc-encoding"),
    status: ({ headers, trailers }) => statusIn({ ...headers, ...trailers }),
  })),
  {
    name: "gRPC-Web",
    listener: "http",
    type: (codec) => `application/grpc-web+${codec}`,
    codecs: ["proto", "json"],
    kinds: everyKind,
    request: envelopes("grpc-encoding"),
    status: ({ body }) => {
      const lines = body.subarray(5).toString().trim().split("\r\n");
      return statusIn(Object.fromEntries(lines.map((line) => line.split(/: ?(.*)/))));
    },
  },
  {
    name: "Connect, one message",
    listener: "http",
    type: (codec) => `application/${codec}`,
    codecs: ["proto", "json"],
    kinds: ["unary"],
    request: ({ body, encoding }) => ({
      body,
      headers: encoding === undefined ? {} : { "content-encoding": encoding },
    }),
    status: ({ body }) => statusOf(JSON.parse(body.toString())),
  },
  {
    name: "Connect, a stream",
    listener: "http",
    type: (codec) => `application/connect+${codec}`,
    codecs: ["proto", "json"],
    kinds: ["server_streaming", "client_streaming"],
    request: envelopes("connect-content-encoding"),
    status: ({ body }) => statusOf(JSON.parse(body.subarray(5).toString()).error),
  },
];

const methods = [
  UserService.method.listUsers,
  BackupService.method.watchBackup,
  SessionService.method.addChunks,
] as const;
const large = create(ListUsersRequestSchema, { pageToken: "x".repeat(5000) });
const text = (json: string): Sent => ({ body: Buffer.from(json) });

/** What cannot be read: of any rpc, or with fields of ListUsers. */
const requests: readonly {
  readonly name: string;
  readonly codec: Codec;
  readonly sent: Sent;
  readonly reason: "BAD_REQUEST" | "MESSAGE_TOO_LARGE";
  readonly fields?: readonly string[];
  readonly isOfListUsers?: true;
}[] = [
  { name: "a cut tag", codec: "proto", sent: { body: Buffer.of(0xff, 0xff) }, reason: "BAD_REQUEST" },
  {
    name: "a text that ends too early",
    codec: "proto",
    sent: { body: Buffer.of(0x12, 0x7f) },
    reason: "BAD_REQUEST",
    isOfListUsers: true,
  },
  { name: "half of JSON", codec: "json", sent: text('{"a":'), reason: "BAD_REQUEST" },
  { name: "JSON that is no object", codec: "json", sent: text("[]"), reason: "BAD_REQUEST" },
  { name: "no UTF-8", codec: "json", sent: { body: Buffer.of(0x22, 0xff) }, reason: "BAD_REQUEST" },
  {
    name: "a value of another type",
    codec: "json",
    sent: text('{"pageSize":"secret"}'),
    reason: "BAD_REQUEST",
    fields: ["page_size"],
    isOfListUsers: true,
  },
  {
    name: "an unknown name of an enum",
    codec: "json",
    sent: text('{"filter":{"status":"secret"}}'),
    reason: "BAD_REQUEST",
    isOfListUsers: true,
  },
  { name: "an unknown field", codec: "json", sent: text('{"nobody":"secret"}'), reason: "BAD_REQUEST" },
  ...(["proto", "json"] as const).flatMap((codec) => {
    const body =
      codec === "proto"
        ? toBinary(ListUsersRequestSchema, large)
        : Buffer.from(toJsonString(ListUsersRequestSchema, large));
    const packed = gzipSync(body);
    const reason = { large: "MESSAGE_TOO_LARGE", broken: "BAD_REQUEST" } as const;
    return [
      { name: "too many bytes", codec, sent: { body }, reason: reason.large },
      {
        name: "too many bytes after decompression",
        codec,
        sent: { body: packed, encoding: "gzip" as const },
        reason: reason.large,
      },
      {
        name: "what was not compressed",
        codec,
        sent: { body: Buffer.from("plain"), encoding: "gzip" as const },
        reason: reason.broken,
      },
      {
        name: "half of what was compressed",
        codec,
        sent: { body: packed.subarray(0, 20), encoding: "gzip" as const },
        reason: reason.broken,
      },
    ];
  }),
];

const table = wires.flatMap((wire) =>
  methods
    .filter(({ methodKind }) => wire.kinds.includes(methodKind))
    .flatMap((method) =>
      requests
        .filter(
          ({ codec, isOfListUsers = false }) =>
            wire.codecs.includes(codec) && (!isOfListUsers || method === methods[0]),
        )
        .map((request) => ({
          wire,
          method,
          request,
          title: `${request.name} in ${request.codec} by ${wire.name} to ${method.name}`,
        })),
    ),
);

let app: TestApp;
beforeAll(async () => {
  app = await testApp({ LUCID_MAX_MESSAGE_BYTES: "4096" });
});
afterAll(() => app[Symbol.asyncDispose]());

test.for(table)("$title is refused with a reason", async ({ wire, method, request }) => {
  using connection = connected(wire);
  const { code, message, details } = wire.status(await answered(connection, wire, method, request.codec, request.sent));
  const wanted = request.reason === "MESSAGE_TOO_LARGE" ? Code.ResourceExhausted : Code.InvalidArgument;
  expect(Code[code]).toBe(Code[wanted]);
  expect(message).not.toContain("secret");
  expect(details.map((detail) => anyUnpack(detail, ErrorInfoSchema)?.reason).filter(Boolean)).toEqual([request.reason]);
  const named = details.flatMap((detail) => anyUnpack(detail, BadRequestSchema)?.fieldViolations ?? []);
  expect(named.map(({ field }) => field)).toEqual(request.fields ?? []);
});

test("what comes in the address of a GET is refused with a reason", async () => {
  const path = `http://${app.httpAddress}/${UserService.typeName}/ListUsers`;
  for (const query of [
    "encoding=json&message=%7B",
    "encoding=proto&base64=1&message=%21",
    "encoding=proto&base64=1&message=_w",
  ]) {
    const response = await fetch(`${path}?connect=v1&${query}`);
    expect(response.status).toBe(400);
    expect(statusOf(await response.json())).toMatchObject({ code: Code.InvalidArgument, details: [{}] });
  }
});

test.for(wires.filter(({ kinds }) => kinds.includes("unary")))(
  "a connection goes on after what could not be read by $name",
  async (wire) => {
    using connection = connected(wire);
    const broken = await answered(connection, wire, methods[0], "proto", { body: Buffer.of(0xff) });
    expect(wire.status(broken).code).toBe(Code.InvalidArgument);
    const { headers, trailers, body } = await answered(connection, wire, methods[0], "proto", { body: Buffer.of() });
    const status = { ...headers, ...trailers }["grpc-status"] ?? /grpc-status: (\d+)/.exec(body.toString())?.[1] ?? "0";
    expect([headers[":status"], status]).toEqual([200, "0"]);
  },
);

/** HTTP/2, which both listeners speak. */
function connected(wire: Wire): ClientHttp2Session & Disposable {
  const client = connect(`http://${wire.listener === "grpc" ? app.grpcAddress : app.httpAddress}`);
  return Object.assign(client, { [Symbol.dispose]: () => client.destroy() });
}

async function answered(
  client: ClientHttp2Session,
  wire: Wire,
  method: DescMethod,
  codec: Codec,
  sent: Sent,
): Promise<Answer> {
  const { body, headers } = wire.request(sent);
  const path = `/${method.parent.typeName}/${method.name}`;
  const stream = client.request({
    ...{ ":method": "POST", ":path": path, "content-type": wire.type(codec), te: "trailers" },
    ...headers,
  });
  let answer: Omit<Answer, "body"> = { headers: {}, trailers: {} };
  stream.once("response", (received) => (answer = { ...answer, headers: received }));
  stream.once("trailers", (received) => (answer = { ...answer, trailers: received }));
  const parts: Buffer[] = [];
  stream.on("data", (part: Buffer) => parts.push(part));
  stream.end(body);
  await once(stream, "end");
  return { ...answer, body: Buffer.concat(parts) };
}

function enveloped({ body, encoding }: Sent): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt8(encoding === undefined ? 0 : 1);
  head.writeUInt32BE(body.byteLength, 1);
  return Buffer.concat([head, body]);
}

/** The failure in the headers or trailers of gRPC; its details carry code and message too. */
function statusIn(headers: Readonly<Record<string, unknown>>): Status {
  const details = headers["grpc-status-details-bin"];
  if (typeof details === "string") return fromBinary(StatusSchema, Buffer.from(details, "base64"));
  return create(StatusSchema, { code: Number(headers["grpc-status"]), message: String(headers["grpc-message"]) });
}

/** A failure in Connect's JSON. */
function statusOf(json: unknown): Status {
  const {
    code,
    message = "",
    details = [],
  } = json as {
    readonly code: string;
    readonly message?: string;
    readonly details?: readonly { readonly type: string; readonly value: string }[];
  };
  const names: Readonly<Record<string, Code>> = {
    invalid_argument: Code.InvalidArgument,
    resource_exhausted: Code.ResourceExhausted,
  };
  return create(StatusSchema, {
    code: names[code] ?? Code.Unknown,
    message,
    details: details.map(({ type, value }) => ({
      typeUrl: `type.googleapis.com/${type}`,
      value: Buffer.from(value, "base64"),
    })),
  });
}

import { type DescMessage, type DescMethod, fromJson, ScalarType, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { Client, credentials, type ServiceError, status } from "@grpc/grpc-js";
import { afterAll, beforeAll, expect, test } from "vitest";

import { DatabaseAdminService } from "../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { type TestApp, testApp } from "../support/app.ts";
import { callWith, filledRequest, platformServices } from "../support/requests.ts";

/** Lines of the log that tell of an error. */
const failures: string[] = [];
let app: TestApp;
beforeAll(async () => {
  const isFailure = (line: string) => (JSON.parse(line) as { level: number }).level >= 50; // pino's error
  app = await testApp({}, { logTo: (line) => void (isFailure(line) && failures.push(line)) });
});
afterAll(() => app[Symbol.asyncDispose]());

/** Text that means something to a regular expression, MongoDB, JavaScript, a terminal, a path, a log. */
const hostile: readonly string[] = [
  ".*",
  "^(a+)+$",
  "(?=",
  "$where",
  "$user_id",
  "a.b.$c",
  '{"$gt":""}',
  "__proto__",
  "constructor",
  "\0",
  "\u0001\u001b[31m\r\n",
  "\u202E\uFEFF\u{1F4A5}",
  "../../etc/passwd",
  "' || 1==1 //",
  "x".repeat(1_000_000),
];

/** Codes that say that the service is at fault or away. */
const faults = new Set([Code.Internal, Code.Unknown, Code.DataLoss, Code.Unimplemented, Code.Unavailable]);

const methods = platformServices()
  .filter(({ typeName }) => !typeName.startsWith("lucid.admin.") || typeName === DatabaseAdminService.typeName)
  .flatMap(({ methods: own }) => own);

/** Paths of text in a request, and of lists of it. */
function textsOf(message: DescMessage): Set<string> {
  const paths = new Set<string>();
  filledRequest(message, (field, path) => {
    const isText =
      field.fieldKind === "scalar" || field.fieldKind === "list" ? field.scalar === ScalarType.STRING : false;
    if (isText) paths.add(path);
    return undefined;
  });
  return paths;
}

test.for(methods.map((method): [string, DescMethod] => [`${method.parent.name}.${method.name}`, method]))(
  "%s takes or refuses any text, and breaks at none",
  async ([, method]) => {
    const broken: string[] = [];
    const transports = Object.values(app.transports);
    for (const [place, path] of [...textsOf(method.input)].entries()) {
      // Each field gets some of the texts, and all fields together all of them.
      const some = hostile.filter((_, index) => index % 3 === place % 3);
      for (const [index, text] of some.entries()) {
        const transport = transports[index % transports.length];
        if (transport === undefined) throw new Error("There is no transport");
        const request = filledRequest(method.input, (field, at) => {
          if (at !== path) return undefined;
          return field.fieldKind === "list" ? [text] : text;
        });
        const error = await callWith(transport, method, request).then(
          () => undefined,
          (cause: unknown) => ConnectError.from(cause),
        );
        if (error !== undefined && faults.has(error.code))
          broken.push(`${path} ${text.slice(0, 20)}: ${error.message}`);
      }
    }
    expect(broken).toEqual([]);
    expect(failures).toEqual([]);
  },
);

test.for(
  methods
    .filter(({ input }) => textsOf(input).size > 0)
    .map((method): [string, DescMethod] => [`${method.parent.name}.${method.name}`, method]),
)("%s refuses text that is not UTF-8, on both listeners", async ([, method]) => {
  const [path] = textsOf(method.input);
  const marked = filledRequest(method.input, (field, at) => {
    if (at !== path) return undefined;
    return field.fieldKind === "list" ? ["MARK"] : "MARK";
  });
  const bytes = Buffer.from(toBinary(method.input, fromJson(method.input, marked)));
  bytes.write("\u00FF\u00FE\u00C0\u0080", bytes.indexOf("MARK"), "latin1");

  const url = `http://${app.httpAddress}/${method.parent.typeName}/${method.name}`;
  const isUnary = method.methodKind === "unary";
  if (isUnary) {
    const response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/proto" },
      body: bytes,
    });
    expect(await response.json()).toMatchObject({
      code: "invalid_argument",
      message: `The request is not a ${method.input.typeName}`,
    });
  }
  expect(await codeOverGrpc(method, bytes)).toBe(status.INVALID_ARGUMENT);
});

/** The code that a request of these bytes ends with. */
async function codeOverGrpc(method: DescMethod, bytes: Buffer): Promise<status> {
  const client = new Client(app.grpcAddress, credentials.createInsecure());
  const asIs = (value: Buffer) => value;
  const path = `/${method.parent.typeName}/${method.name}`;
  try {
    return await new Promise((resolve) => {
      const call = client.makeBidiStreamRequest(path, asIs, asIs, { deadline: Date.now() + 100_000 });
      call.on("error", ({ code }: ServiceError) => resolve(code));
      call.on("status", ({ code }) => resolve(code));
      call.resume();
      call.write(bytes);
      call.end();
    });
  } finally {
    client.close();
  }
}

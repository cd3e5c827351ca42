import { join } from "node:path";

import {
  type DescField,
  type DescMessage,
  type DescMethod,
  fromJson,
  type JsonObject,
  type JsonValue,
  type MessageInitShape,
  ScalarType,
} from "@bufbuild/protobuf";
import { Code, ConnectError, type ConnectRouter, type ServiceImpl } from "@connectrpc/connect";
import type { Command } from "commander";
import { expect, test } from "vitest";

import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { allCommands, pathOf } from "../../src/cli/command-tree.ts";
import { buildProgram } from "../../src/cli/program.ts";
import { openSession } from "../../src/cli/session.ts";
import { ownFolder } from "../local/support.ts";
import { platformServices } from "../support/requests.ts";
import { lucidInside, servedBy } from "./support.ts";

/** Clears the screen, writes over the line before, and turns the direction of writing around. */
const hostile = "a\u001b[2J\u009b1A\r\nb\u202ec\u0007";

/** Of members that exclude each other, which one is set. */
type Member = "first" | "last";

/** A message as JSON, of which every text is hostile and everything is set. */
function hostileMessage(message: DescMessage, member: Member, depth = 0): JsonObject {
  const json: JsonObject = {};
  for (const field of message.fields) {
    if (field.oneof !== undefined && field !== field.oneof.fields.at(member === "first" ? 0 : -1)) continue;
    // There would be no end to the pages.
    if (field.name === "next_page_token") continue;
    const value = hostileField(field, member, depth);
    if (value !== undefined) json[field.name] = value;
  }
  return json;
}

function hostileField(field: DescField, member: Member, depth: number): JsonValue | undefined {
  const value = hostileValue(field, member, depth);
  if (value === undefined) return undefined;
  if (field.fieldKind === "map") return { [hostile]: value };
  return field.fieldKind === "list" ? [value] : value;
}

function hostileValue(field: DescField, member: Member, depth: number): JsonValue | undefined {
  if (field.enum !== undefined) {
    const { values } = field.enum;
    // A job that does not end would be watched for ever, and so would a subscription without a message.
    const chosen = values.find(({ localName }) => localName === "FAILED" || localName === "MESSAGE") ?? values.at(1);
    return chosen?.number;
  }
  if (field.message !== undefined) {
    const known = wellKnown.get(field.message.typeName);
    if (known !== undefined) return known;
    return depth > 5 || field.message.typeName.startsWith("google.")
      ? undefined
      : hostileMessage(field.message, member, depth + 1);
  }
  switch (field.scalar) {
    case undefined:
      return undefined;
    case ScalarType.BOOL:
      return true;
    case ScalarType.STRING:
      return hostile;
    case ScalarType.BYTES:
      return Buffer.from(`\xff${hostile}`, "latin1").toString("base64");
    default:
      return "1";
  }
}

const wellKnown = new Map<string, JsonValue>([
  ["google.protobuf.Timestamp", "2026-11-28T20:15:00Z"],
  ["google.protobuf.Duration", "1.5s"],
  ["google.protobuf.Struct", { [hostile]: [hostile, 1, null] }],
  ["google.protobuf.Value", hostile],
  ["google.protobuf.ListValue", [hostile]],
]);

/** A service that answers every call with hostile texts, or fails it with some. */
function hostileRoutes(router: ConnectRouter, member: Member, fails: boolean): void {
  const answer = (method: DescMethod) => {
    if (!fails) return fromJson(method.output, hostileMessage(method.output, member)) as MessageInitShape<DescMessage>;
    const value = { reason: hostile, domain: "lucid", metadata: { [hostile]: hostile } };
    throw new ConnectError(hostile, Code.NotFound, undefined, [{ desc: ErrorInfoSchema, value }]);
  };
  for (const service of platformServices()) {
    const methods = service.methods.map((method) => {
      const isStreaming = method.methodKind === "server_streaming" || method.methodKind === "bidi_streaming";
      const handler = isStreaming
        ? async function* () {
            yield answer(method);
          }
        : async () => answer(method);
      return [method.localName, handler];
    });
    router.service(service, Object.fromEntries(methods) as Partial<ServiceImpl<typeof service>>); // of its methods' kinds
  }
}

/** Words that call a command with all that it cannot do without; where it can watch what it begins, also without that. */
function wordsOf(command: Command, folder: string): readonly (readonly string[])[] {
  const values: Readonly<Record<string, string>> = {
    ...{ time: "60s", size: "1MiB", file: join(folder, "heads"), type: "mongodb", index: "1", first: "1" },
  };
  const valueOf = (name: string): string => values[name] ?? "x";
  const path = pathOf(command).split(" ").slice(1);
  const given = command.registeredArguments.map((argument) => argument.argChoices?.[0] ?? valueOf(argument.name()));
  const limits: Readonly<Record<string, string>> = { "--for": "2s", "--count": "1", "--give-up": "1ms" };
  const options = command.options.flatMap(({ mandatory, long, flags }) => {
    const limit = limits[long ?? ""] ?? (mandatory ? valueOf(/<(.+)>/.exec(flags)?.[1] ?? "") : undefined);
    return limit === undefined ? [] : [long ?? "", limit];
  });
  const words = [...path, ...given, ...options, "--yes"];
  return command.options.some(({ long }) => long === "--watch") ? [words, [...words, "--watch"]] : [words];
}

/** Commands that call the service for something; `call` is for whatever call. */
async function callingCommands(): Promise<readonly Command[]> {
  const { stdin, stdout, stderr } = process;
  const session = openSession({ stdin, stdout, stderr, environment: {} }, new AbortController().signal);
  const all = allCommands(await buildProgram(session, "all")).filter(({ commands }) => commands.length === 0);
  return all.filter((command) => !["call", "completion"].includes(command.name()));
}

test.for([
  { member: "first", fails: false, option: "--json" },
  { member: "first", fails: false, option: "--no-color" },
  { member: "last", fails: false, option: "--no-color" },
  { member: "first", fails: true, option: "--no-color" },
] as const)("no command lets a service order its terminal about: %j", async ({ member, fails, option }) => {
  using folder = ownFolder();
  await using served = await servedBy((router) => hostileRoutes(router, member, fails));
  const command = lucidInside(served.address);
  const codes: number[] = [];
  for (const each of await callingCommands()) {
    const ends = await Promise.all(
      wordsOf(each, folder.path).map(async (words) => ({ words, ...(await command.run(...words, option)) })),
    );
    for (const { words, code, stdout, stderr } of ends) {
      expect([words, `${stdout}${stderr}`.match(/(?!\n)[\p{Cc}\u202e]/u)]).toEqual([words, null]);
      expect(stderr).not.toContain("This is a mistake in lucid");
      codes.push(code ?? -1);
    }
  }
  expect(codes.filter((code) => code === (fails ? 3 : 0)).length).toBeGreaterThan(codes.length / 2);
});

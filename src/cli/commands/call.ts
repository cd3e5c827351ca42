import { readFile } from "node:fs/promises";

import {
  createFileRegistry,
  type DescMethod,
  type DescMethodStreaming,
  type FileRegistry,
  fromBinary,
  fromJson,
  type JsonValue,
  type Message,
  toJson,
} from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import type { Command } from "commander";

import { withExamples } from "../examples.ts";
import { Failure } from "../failure.ts";
import { readText } from "../input.ts";
import type { Session } from "../session.ts";

const descriptors = new URL("../../../gen/descriptors.binpb", import.meta.url);

/** `lucid call`: any call of the contracts. */
export function define(call: Command, session: Session): void {
  withExamples(
    call
      .argument(
        "[method]",
        "SERVICE/METHOD; the package may be left out. A service alone lists its methods, nothing all services",
      )
      .option("--data <json>", "the request, as JSON, @FILE or - for stdin; one object for each message of a stream")
      .action(async (method: string | undefined, { data = "{}" }: { data?: string }) => {
        const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, await readFile(descriptors)));
        const services = [...registry].filter((desc) => desc.kind === "service");
        const [service = "", name] = method?.split("/") ?? [];
        if (service === "")
          return list(
            session,
            services.map(({ typeName }) => typeName),
          );
        const found = services.find(({ typeName, name: short }) => [typeName, short].includes(service));
        if (found === undefined)
          throw new Failure("usage", `There is no service ${service}`, "`lucid call` lists them.");
        if (name === undefined)
          return list(
            session,
            found.methods.map((each) => `${found.name}/${each.name}`),
          );
        const called = found.methods.find((each) => each.name === name);
        if (called === undefined) {
          throw new Failure(
            "usage",
            `There is no ${service}/${name}`,
            `\`lucid call ${service}\` lists what there is.`,
          );
        }
        await callOnce(session, { method: called, registry, text: await readText(session, data, "--data") });
      }),
    "lucid call",
    "lucid call UserService",
    `lucid call UserService/GetUserByEmail --data '{"email": "ada@example.com"}'`,
    "lucid call lucid.repository.v1.TrustPolicyService/CreateTrustPolicy --data @policy.json",
  );
}

async function list({ output }: Session, names: readonly string[]): Promise<void> {
  for (const name of names.toSorted()) await (output.json ? output.object({ name }) : output.line(name));
}

/** Makes a call of any kind. Each response is printed as one object of JSON, whatever the form of results is. */
async function callOnce(
  session: Session,
  { method, registry, text }: { readonly method: DescMethod; readonly registry: FileRegistry; readonly text: string },
): Promise<void> {
  const requests = objectsIn(text).map((json) => requestOf(method, json, registry));
  // Only a call that answers once has a usual time to do so.
  const answersOnce = method.methodKind === "unary" || method.methodKind === "client_streaming";
  const { timeoutMs } = answersOnce ? session.call() : session.stream();
  const messages = (async function* () {
    yield* requests;
  })();
  // On the wire of gRPC a call that answers once is a stream of one message.
  const { message } = await session
    .transport()
    .stream(method as DescMethodStreaming, session.signal, timeoutMs, undefined, messages);
  for await (const response of message) {
    await session.output.object(toJson(method.output, response, { registry, alwaysEmitImplicit: true }) as object); // no method answers with a wrapper
  }
}

/** One value of JSON, or several with line breaks between them. */
function objectsIn(text: string): readonly JsonValue[] {
  try {
    return [JSON.parse(text) as JsonValue]; // the parser of messages checks it
  } catch (error) {
    const lines = text.split("\n").filter((line) => line.trim() !== "");
    try {
      return lines.map((line) => JSON.parse(line) as JsonValue);
    } catch {
      throw wrongData(error);
    }
  }
}

function requestOf(method: DescMethod, json: JsonValue, registry: FileRegistry): Message {
  try {
    return fromJson(method.input, json, { registry });
  } catch (error) {
    throw wrongData(error);
  }
}

function wrongData(error: unknown): Failure {
  return new Failure("usage", `--data: ${error instanceof Error ? error.message : String(error)}`);
}

import { readFileSync } from "node:fs";

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  type DescriptorProto,
  type FileDescriptorProto,
  FileDescriptorProtoSchema,
  FileDescriptorSetSchema,
} from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";

import {
  ServerReflection,
  type ServerReflectionRequest,
  ServerReflectionRequestSchema,
  ServerReflectionResponseSchema,
} from "../../gen/grpc/reflection/v1/reflection_pb.ts";
import {
  ServerReflection as ServerReflectionAlpha,
  type ServerReflectionRequest as AlphaRequest,
  ServerReflectionRequestSchema as AlphaRequestSchema,
  ServerReflectionResponseSchema as AlphaResponseSchema,
} from "../../gen/grpc/reflection/v1alpha/reflection_pb.ts";
import { serve, type Registration } from "./registration.ts";

/** Descriptors of all contracts with their comments, which generated code leaves out. Made by `npm run generate`. */
const descriptors = new URL("../../gen/descriptors.binpb", import.meta.url);

/** Files that one stream has been sent are not sent again; a stream that asks for more than these is refused. */
const mostRequests = 10_000;

/** `grpc.reflection` v1, and v1alpha for older tools, over the named services. */
export function reflection(services: readonly string[]): readonly Registration[] {
  const index = indexOf(fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)).file);
  const names = [...services, ServerReflection.typeName, ServerReflectionAlpha.typeName].toSorted();

  async function* answers(requests: AsyncIterable<ServerReflectionRequest>) {
    const sent = new Set<string>();
    let count = 0;
    for await (const originalRequest of requests) {
      if (++count > mostRequests) return;
      const { host: validHost, messageRequest } = originalRequest;
      yield { validHost, originalRequest, messageResponse: answer(messageRequest, sent) };
    }
  }

  function answer(asked: ServerReflectionRequest["messageRequest"], sent: Set<string>) {
    switch (asked.case) {
      case "listServices":
        return { case: "listServicesResponse" as const, value: { service: names.map((name) => ({ name })) } };
      case "fileByFilename":
        return files(index.byName.get(asked.value), sent);
      case "fileContainingSymbol":
        return files(index.bySymbol.get(asked.value.replace(/^\./, "")), sent);
      case "fileContainingExtension": {
        const { containingType, extensionNumber } = asked.value;
        return files(index.byExtension.get(`${containingType.replace(/^\./, "")} ${extensionNumber}`), sent);
      }
      case "allExtensionNumbersOfType": {
        const baseTypeName = asked.value.replace(/^\./, "");
        if (!index.bySymbol.has(baseTypeName)) return notFound();
        const prefix = `${baseTypeName} `;
        const keys = [...index.byExtension.keys()].filter((key) => key.startsWith(prefix));
        const extensionNumber = keys.map((key) => Number(key.slice(prefix.length)));
        return { case: "allExtensionNumbersResponse" as const, value: { baseTypeName, extensionNumber } };
      }
      default:
        return failure(Code.InvalidArgument, "The request asks for nothing");
    }
  }

  /** A file with all that it imports and the stream was not sent yet. */
  function files(file: FileDescriptorProto | undefined, sent: Set<string>) {
    if (file === undefined) return notFound();
    const found: Uint8Array[] = [];
    const add = (next: FileDescriptorProto, isAsked: boolean) => {
      if (sent.has(next.name) && !isAsked) return;
      sent.add(next.name);
      found.push(toBinary(FileDescriptorProtoSchema, next));
      for (const name of next.dependency) {
        const imported = index.byName.get(name);
        if (imported !== undefined) add(imported, false);
      }
    };
    add(file, true);
    return { case: "fileDescriptorResponse" as const, value: { fileDescriptorProto: found } };
  }

  return [
    serve(ServerReflection, { serverReflectionInfo: (requests) => answers(requests) }),
    serve(ServerReflectionAlpha, {
      async *serverReflectionInfo(requests) {
        for await (const response of answers(asCurrent(requests))) {
          const bytes = toBinary(ServerReflectionResponseSchema, create(ServerReflectionResponseSchema, response));
          yield fromBinary(AlphaResponseSchema, bytes);
        }
      },
    }),
  ];
}

/** The messages of the two versions are the same on the wire; only their package differs. */
async function* asCurrent(requests: AsyncIterable<AlphaRequest>): AsyncGenerator<ServerReflectionRequest> {
  for await (const request of requests) {
    yield fromBinary(ServerReflectionRequestSchema, toBinary(AlphaRequestSchema, request));
  }
}

function notFound() {
  return failure(Code.NotFound, "There is no such file or symbol");
}

function failure(errorCode: Code, errorMessage: string) {
  return { case: "errorResponse" as const, value: { errorCode, errorMessage } };
}

function indexOf(files: readonly FileDescriptorProto[]) {
  const byName = new Map(files.map((file) => [file.name, file]));
  const bySymbol = new Map<string, FileDescriptorProto>();
  const byExtension = new Map<string, FileDescriptorProto>();
  for (const file of files) {
    const extensions = (found: DescriptorProto["extension"], scope: string) => {
      for (const { name, extendee, number } of found) {
        bySymbol.set(`${scope}${name}`, file);
        byExtension.set(`${extendee.replace(/^\./, "")} ${number}`, file);
      }
    };
    const message = (found: DescriptorProto, scope: string) => {
      const name = `${scope}${found.name}`;
      bySymbol.set(name, file);
      for (const { name: field } of found.field) bySymbol.set(`${name}.${field}`, file);
      for (const { name: oneof } of found.oneofDecl) bySymbol.set(`${name}.${oneof}`, file);
      for (const nested of found.enumType) bySymbol.set(`${name}.${nested.name}`, file);
      for (const nested of found.nestedType) message(nested, `${name}.`);
      extensions(found.extension, `${name}.`);
    };
    const scope = file.package === "" ? "" : `${file.package}.`;
    for (const found of file.messageType) message(found, scope);
    for (const { name, value } of file.enumType) {
      bySymbol.set(`${scope}${name}`, file);
      for (const { name: member } of value) bySymbol.set(`${scope}${member}`, file);
    }
    for (const { name, method } of file.service) {
      bySymbol.set(`${scope}${name}`, file);
      for (const { name: rpc } of method) bySymbol.set(`${scope}${name}.${rpc}`, file);
    }
    extensions(file.extension, scope);
  }
  return { byName, bySymbol, byExtension };
}

import { create, toBinary } from "@bufbuild/protobuf";
import { anyPack, AnySchema } from "@bufbuild/protobuf/wkt";
import { type Code, type ConnectError, decodeBinaryHeader, encodeBinaryHeader } from "@connectrpc/connect";
import { Metadata, type StatusObject, status as grpcStatus } from "@grpc/grpc-js";

import { StatusSchema } from "../../gen/google/rpc/status_pb.ts";

/** gRPC metadata as headers; values of names that end with `-bin` are base64 there. */
export function headersOf(metadata: Metadata): Headers {
  const headers = new Headers();
  // `toJSON` gives every value of every name, uncopied.
  const entries: [string, (string | Buffer)[]][] = Object.entries(metadata.toJSON());
  for (const [key, values] of entries) {
    for (const value of values) headers.append(key, typeof value === "string" ? value : encodeBinaryHeader(value));
  }
  return headers;
}

/** Headers as gRPC metadata. */
export function metadataOf(headers: Headers | undefined, into: Metadata = new Metadata()): Metadata {
  for (const [key, joined] of headers ?? []) {
    if (!key.endsWith("-bin")) {
      into.add(key, joined);
      continue;
    }
    for (const value of joined.split(",")) into.add(key, Buffer.from(decodeBinaryHeader(value.trim())));
  }
  return into;
}

/** An error as @grpc/grpc-js sends it: details go into `grpc-status-details-bin`, its metadata into the trailers. */
export function statusOf(error: ConnectError, trailer: Headers | undefined): StatusObject {
  const metadata = metadataOf(error.metadata, metadataOf(trailer));
  // A lone surrogate could not be percent-encoded.
  const message = error.rawMessage.toWellFormed();
  if (error.details.length > 0) {
    const details = error.details.map((detail) =>
      "desc" in detail
        ? anyPack(detail.desc, create(detail.desc, detail.value))
        : create(AnySchema, { typeUrl: `type.googleapis.com/${detail.type}`, value: detail.value }),
    );
    const status = create(StatusSchema, { code: error.code, message, details });
    metadata.set("grpc-status-details-bin", Buffer.from(toBinary(StatusSchema, status)));
  }
  // Connect's codes and those of gRPC are the same numbers.
  return { code: codeOf(error.code), details: message, metadata };
}

type Status = StatusObject["code"];

const statuses = new Map<number, Status>(
  Object.values(grpcStatus).flatMap((value) => (typeof value === "number" ? [[value, value]] : [])),
);

function codeOf(code: Code): Status {
  return statuses.get(code) ?? grpcStatus.UNKNOWN;
}

import type { OutgoingHttpHeaders } from "node:http2";

import { toBinary } from "@bufbuild/protobuf";
import { type Code, type ConnectError, encodeBinaryHeader } from "@connectrpc/connect";
import { Metadata, type StatusObject, status as grpcStatus } from "@grpc/grpc-js";

import { StatusSchema } from "../../gen/google/rpc/status_pb.ts";
import { rpcStatusOf } from "../errors.ts";

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

/** What the wire says itself, and what HTTP/2 forbids: sent by a handler, it would break the call or, in trailers, the process. */
const reserved = new Set([
  ...[
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
  ],
  ...["content-length", "content-type", "grpc-encoding", "grpc-message", "grpc-status", "grpc-status-details-bin"],
]);

/**
 * Headers as @grpc/grpc-js sends them: as they are. Its own metadata would decode binary values to encode them again, with the
 * padding that gRPC asks to leave away.
 */
class SentMetadata extends Metadata {
  readonly #headers: OutgoingHttpHeaders;
  constructor(headers: OutgoingHttpHeaders) {
    super();
    this.#headers = headers;
  }
  override toHttp2Headers(): OutgoingHttpHeaders {
    return this.#headers;
  }
  override clone(): this {
    return this;
  }
}

/** Headers as gRPC metadata, with what the wire itself adds. Throws where a name is reserved to the wire. */
export function metadataOf(all: readonly (Headers | undefined)[], added: OutgoingHttpHeaders = {}): Metadata {
  const sent: OutgoingHttpHeaders = {};
  for (const headers of all) {
    for (const [name, value] of headers ?? []) {
      if (reserved.has(name)) throw new Error(`A handler cannot send the header ${name}`);
      sent[name] = value;
    }
  }
  return new SentMetadata(Object.assign(sent, added));
}

/** An error as @grpc/grpc-js sends it: details go into `grpc-status-details-bin`, its metadata into the trailers. */
export function statusOf(error: ConnectError, trailer: Headers | undefined): StatusObject {
  const added: OutgoingHttpHeaders = {};
  if (error.details.length > 0) {
    added["grpc-status-details-bin"] = encodeBinaryHeader(toBinary(StatusSchema, rpcStatusOf(error)));
  }
  // Connect's codes and those of gRPC are the same numbers. A lone surrogate could not be percent-encoded.
  return {
    code: codeOf(error.code),
    details: error.rawMessage.toWellFormed(),
    metadata: metadataOf([trailer, error.metadata], added),
  };
}

type Status = StatusObject["code"];

const statuses = new Map<number, Status>(
  Object.values(grpcStatus).flatMap((value) => (typeof value === "number" ? [[value, value]] : [])),
);

function codeOf(code: Code): Status {
  return statuses.get(code) ?? grpcStatus.UNKNOWN;
}

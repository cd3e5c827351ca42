import { create, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { type Any, anyPack } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";

import {
  BidiStreamRequestSchema,
  ClientStreamRequestSchema,
  ConformancePayload_RequestInfoSchema,
  type ConformancePayload_RequestInfo,
  type ConformanceService,
  type Error as ErrorDefinition,
  type Header,
  IdempotentUnaryRequestSchema,
  ServerStreamRequestSchema,
  type StreamResponseDefinition,
  UnaryRequestSchema,
  type UnaryResponseDefinition,
} from "./gen/connectrpc/conformance/v1/service_pb.ts";

/** The service that the public conformance suite calls: answers as each request says, and tells what it saw of it. */
export const conformanceService: ServiceImpl<typeof ConformanceService> = {
  async unary(request, context) {
    return { payload: await one(request.responseDefinition, [packed(UnaryRequestSchema, request)], context) };
  },

  async idempotentUnary(request, context) {
    return { payload: await one(request.responseDefinition, [packed(IdempotentUnaryRequestSchema, request)], context) };
  },

  async clientStream(requests, context) {
    const seen: Any[] = [];
    let definition: UnaryResponseDefinition | undefined;
    for await (const request of requests) {
      if (seen.length === 0) definition = request.responseDefinition;
      seen.push(packed(ClientStreamRequestSchema, request));
    }
    return { payload: await one(definition, seen, context) };
  },

  async *serverStream(request, context) {
    const { responseDefinition } = request;
    const seen = [packed(ServerStreamRequestSchema, request)];
    if (responseDefinition === undefined) return;
    setHeaders(responseDefinition, context);
    const info = infoOf(seen, context);
    for (const [index, data] of responseDefinition.responseData.entries()) {
      await delay(responseDefinition.responseDelayMs);
      yield { payload: index === 0 ? { data, requestInfo: info } : { data } };
    }
    throwIfSet(responseDefinition.error, responseDefinition.responseData.length === 0 ? info : undefined);
  },

  async *bidiStream(requests, context) {
    let seen: Any[] = [];
    let definition: StreamResponseDefinition | undefined;
    let isFullDuplex = false;
    let isFirst = true;
    let sent = 0;
    for await (const request of requests) {
      seen.push(packed(BidiStreamRequestSchema, request));
      if (isFirst) {
        isFirst = false;
        isFullDuplex = request.fullDuplex;
        definition = request.responseDefinition;
        if (definition !== undefined) setHeaders(definition, context);
      }
      if (!isFullDuplex) continue;
      const data = definition?.responseData[sent];
      if (definition === undefined || data === undefined) break;
      await delay(definition.responseDelayMs);
      const info =
        sent === 0 ? infoOf(seen, context) : create(ConformancePayload_RequestInfoSchema, { requests: seen });
      yield { payload: { data, requestInfo: info } };
      sent++;
      seen = [];
    }
    if (definition === undefined) return;
    for (; sent < definition.responseData.length; sent++) {
      await delay(definition.responseDelayMs);
      const data = definition.responseData[sent] ?? new Uint8Array();
      yield { payload: sent === 0 ? { data, requestInfo: infoOf(seen, context) } : { data } };
    }
    throwIfSet(definition.error, sent === 0 ? infoOf(seen, context) : undefined);
  },

  unimplemented() {
    throw new ConnectError("This rpc is here to be refused", Code.Unimplemented);
  },
};

async function one(definition: UnaryResponseDefinition | undefined, seen: Any[], context: HandlerContext) {
  const requestInfo = infoOf(seen, context);
  if (definition === undefined) return { requestInfo };
  setHeaders(definition, context);
  await delay(definition.responseDelayMs);
  const { response } = definition;
  if (response.case === "error") throwIfSet(response.value, requestInfo);
  return response.case === "responseData" ? { requestInfo, data: response.value } : { requestInfo };
}

function packed<D extends DescMessage>(schema: D, message: MessageShape<D>): Any {
  return anyPack(schema, message);
}

function setHeaders(
  { responseHeaders, responseTrailers }: { responseHeaders: Header[]; responseTrailers: Header[] },
  context: HandlerContext,
): void {
  const add = (to: Headers, headers: Header[]) => {
    for (const { name, value } of headers) for (const single of value) to.append(name, single);
  };
  add(context.responseHeader, responseHeaders);
  add(context.responseTrailer, responseTrailers);
}

function infoOf(requests: Any[], context: HandlerContext): ConformancePayload_RequestInfo {
  const timeoutMs = context.timeoutMs();
  const isGet = context.requestMethod === "GET";
  const queryParams = Array.from(new URL(context.url).searchParams, ([name, value]) => ({ name, value: [value] }));
  return create(ConformancePayload_RequestInfoSchema, {
    requestHeaders: Array.from(context.requestHeader, ([name, value]) => ({ name, value: [value] })),
    requests: [...requests],
    ...(timeoutMs === undefined ? {} : { timeoutMs: BigInt(Math.trunc(timeoutMs)) }),
    ...(isGet ? { connectGetInfo: { queryParams } } : {}),
  });
}

/** The suite's codes by number; they are those of gRPC, as Connect's are. */
const codes = new Map<number, Code>(
  Object.values(Code).flatMap((code) => (typeof code === "number" ? [[code, code]] : [])),
);

/** Throws what a definition says, with what was seen of the request where no response could carry it. */
function throwIfSet(definition: ErrorDefinition | undefined, info: ConformancePayload_RequestInfo | undefined): void {
  if (definition === undefined) return;
  const error = new ConnectError(definition.message ?? "", codes.get(definition.code) ?? Code.Unknown);
  const details = definition.details.map(({ typeUrl, value }) => ({
    type: typeUrl.slice(typeUrl.lastIndexOf("/") + 1),
    value,
  }));
  error.details = details;
  if (info !== undefined) error.details.push({ desc: ConformancePayload_RequestInfoSchema, value: info });
  throw error;
}

/** The suite says how long a response is to take; a test of deadlines and order, so time is what it is about. */
function delay(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}

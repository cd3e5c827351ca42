import { type DescMessage, fromBinary, type Message, type MessageShape } from "@bufbuild/protobuf";

/** Where a message that was never decoded carries its bytes. */
const wire = Symbol("wire");

/** What stands in for a message until somebody reads a field of it. */
interface Undecoded {
  readonly $typeName: string;
  readonly [wire]: Uint8Array;
  readonly schema: DescMessage;
  message: Message | undefined;
}

/**
 * A message whose wire bytes exist already. A listener that speaks protobuf sends `bytes` as they are; whoever reads a field
 * gets it from a message that is decoded then, which throws where `bytes` are none of `schema`. It cannot be changed.
 */
export function encoded<D extends DescMessage>(schema: D, bytes: Uint8Array): MessageShape<D> {
  const undecoded: Undecoded = { $typeName: schema.typeName, [wire]: bytes, schema, message: undefined };
  // Behind the proxy are the members of a message of this schema.
  return new Proxy(undecoded, reader) as unknown as MessageShape<D>;
}

/** The wire bytes of a message that `encoded` made; undefined for any other. */
export function encodedBytes(message: object): Uint8Array | undefined {
  return (message as Partial<Undecoded>)[wire];
}

function messageOf(undecoded: Undecoded): Message {
  undecoded.message ??= fromBinary(undecoded.schema, undecoded[wire]);
  return undecoded.message;
}

const reader: ProxyHandler<Undecoded> = {
  get: (target, key) => {
    // These two are asked of every message that is sent.
    if (key === wire) return target[wire];
    if (key === "$typeName") return target.$typeName;
    // And this of everything that an async function returns; decoding for it would cost more than the rest of a read.
    if (key === "then" && target.schema.field["then"] === undefined) return undefined;
    return Reflect.get(messageOf(target), key);
  },
  has: (target, key) => key === wire || key === "$typeName" || Reflect.has(messageOf(target), key),
  getPrototypeOf: (target) => Reflect.getPrototypeOf(messageOf(target)),
  ownKeys: (target) => Reflect.ownKeys(messageOf(target)),
  getOwnPropertyDescriptor: (target, key) => {
    const found = Reflect.getOwnPropertyDescriptor(messageOf(target), key);
    // A proxy may show what its target lacks only as configurable.
    return found && { ...found, configurable: true };
  },
  set: () => false,
  defineProperty: () => false,
  deleteProperty: () => false,
};

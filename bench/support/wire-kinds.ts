/** Servers that do the same over the same wire. */
export const wireKinds = ["grpc-js", "bridge", "chain", "connect-node"] as const;

/** One of them. */
export type WireKind = (typeof wireKinds)[number];

import { createContextKey } from "@connectrpc/connect";

/** Network address of whoever called, without its port; empty where the connection is gone already. */
export const peerAddress = createContextKey("", { description: "network address of the caller" });

/** An address as this project has it. IPv4 that came over a socket of IPv6 is told as IPv4. */
export function plainAddress(address: string | undefined): string {
  return address?.replace(/^::ffff:(?=\d+\.)/, "") ?? "";
}

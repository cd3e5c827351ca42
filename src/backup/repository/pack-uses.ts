/** How much of a pack is referred to. */
export interface PackUse {
  readonly pack: Buffer;
  /** Sealed bytes of its chunks, each as often as it is referred to. */
  bytes: number;
}

/** The packs that are referred to. */
export class PackUses {
  readonly #uses = new Map<string, PackUse>();

  get all(): Iterable<PackUse> {
    return this.#uses.values();
  }

  add(pack: Buffer, bytes: number): void {
    const key = pack.toString("latin1");
    const use = this.#uses.get(key);
    if (use === undefined) this.#uses.set(key, { pack, bytes });
    else use.bytes += bytes;
  }
}

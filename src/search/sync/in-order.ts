/** Work of which several pieces run at once, and which is done in the order in which it was begun. */
export interface InOrder {
  /** Resolves when a piece could begin at once. Fails as an earlier piece has. */
  room(): Promise<void>;
  /** Begins a piece once there is room. Fails as an earlier piece has. With `alone`, nothing else runs beside it. */
  begin<T>(
    work: () => Promise<T>,
    done: (result: T) => void | Promise<void>,
    options?: { readonly alone?: boolean },
  ): Promise<void>;
  /** Resolves when nothing runs. Fails as a piece has. */
  idle(): Promise<void>;
  /** Resolves when nothing runs, whatever has become of it. */
  ended(): Promise<void>;
}

/** `done` of a piece is called when it has succeeded and all that were begun before it are done. */
export function inOrder(most: number): InOrder {
  const running: Promise<void>[] = [];
  let last: Promise<void> = Promise.resolve();

  const downTo = async (count: number): Promise<void> => {
    while (running.length > count) {
      await running[0];
      void running.shift();
    }
  };

  return {
    room: () => downTo(most - 1),

    async begin(work, done, { alone = false } = {}) {
      await downTo(alone ? 0 : most - 1);
      const before = last;
      const piece = (async () => {
        const result = await work();
        await before;
        await done(result);
      })();
      // Whoever waits for it next is told; nobody may be waiting when it fails.
      piece.catch(() => undefined);
      last = piece;
      running.push(piece);
      if (alone) await downTo(0);
    },

    idle: () => downTo(0),

    async ended() {
      await Promise.allSettled(running);
    },
  };
}

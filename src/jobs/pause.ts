/** A loop's wait between two rounds, which others can cut short. */
export interface Pause {
  /** Resolves after `ms`, or as soon as `wake` is called; at once where it was called since the last wait. */
  wait(ms: number): Promise<void>;
  wake(): void;
}

/** Makes a pause for one loop. Its timer does not keep the process alive. */
export function pause(): Pause {
  let woken = false;
  let end: (() => void) | undefined;
  return {
    async wait(ms) {
      if (!woken) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, ms);
          timer.unref();
          end = () => {
            clearTimeout(timer);
            resolve();
          };
        });
      }
      end = undefined;
      woken = false;
    },
    wake() {
      woken = true;
      end?.();
    },
  };
}

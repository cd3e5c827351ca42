import type { WriteStream } from "node:tty";

import { cut } from "./text.ts";

const cursor = { hide: "\x1b[?25l", show: "\x1b[?25h" };

/** Some lines at the bottom of a terminal that are drawn again and again. Disposing it leaves them as they are. */
export interface LiveLines extends Disposable {
  /** Draws these safe lines over the last ones; `painted` paints one after it has been cut to the terminal's width. */
  draw(lines: readonly string[], painted?: (line: string, index: number) => string): void;
  /** Takes the lines away. */
  clear(): void;
}

export function liveLines(terminal: WriteStream): LiveLines {
  let drawn = 0;
  const erase = () => (drawn === 0 ? "" : `\x1b[${drawn}A\x1b[0J`);
  // However this process ends by itself, the terminal gets its cursor back.
  const restore = () => void terminal.write(cursor.show);
  process.once("exit", restore);
  terminal.write(cursor.hide);
  return {
    draw(lines, painted = (line) => line) {
      // What has scrolled away cannot be drawn over.
      // A terminal that does not tell its size says 0.
      const [rows, columns] = [terminal.rows || 24, terminal.columns || 80];
      const shown = lines.slice(0, Math.max(1, rows - 1)).map((line) => cut(line, columns - 1));
      terminal.write(`${erase()}${shown.map((line, index) => `${painted(line, index)}\n`).join("")}`);
      drawn = shown.length;
    },
    clear() {
      terminal.write(erase());
      drawn = 0;
    },
    [Symbol.dispose]() {
      process.off("exit", restore);
      restore();
    },
  };
}

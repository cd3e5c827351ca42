/** What a terminal shows of what was written to it: as much of one as the tests need. */
export interface Screen {
  write(text: string): void;
  /** The lines, without spaces at their ends and without empty lines at the end. */
  lines(): readonly string[];
  readonly isCursorShown: boolean;
  /** Whether the cursor was ever hidden. */
  readonly wasCursorHidden: boolean;
  /** Whether anything was written in colour. */
  readonly isPainted: boolean;
}

/** An order to the terminal: ESC [ parameters letter. */
const escape = "\u001b";
const order = new RegExp(`^${escape}\\[([?\\d;]*)([A-Za-z])`);

export function screen(): Screen {
  const rows: string[][] = [[]];
  let row = 0;
  let column = 0;
  let isCursorShown = true;
  let wasCursorHidden = false;
  let isPainted = false;
  let rest = "";
  const obey = (parameters: string, letter: string): void => {
    const number = Number(parameters.replace("?", "") || (letter === "J" || letter === "K" ? 0 : 1));
    if (parameters === "?25") {
      isCursorShown = letter === "h";
      wasCursorHidden ||= !isCursorShown;
    } else if (letter === "A") row = Math.max(0, row - number);
    else if (letter === "B") row += number;
    else if (letter === "C") column += number;
    else if (letter === "D") column = Math.max(0, column - number);
    else if (letter === "G") column = number - 1;
    else if (letter === "J") {
      rows.splice(row + 1);
      rows[row]?.splice(column);
    } else if (letter === "K") rows[row]?.splice(number === 2 ? 0 : column);
    else if (letter === "m") isPainted = true;
    else throw new Error(`The terminal was ordered ESC [ ${parameters} ${letter}`);
  };
  return {
    write(text) {
      let left = rest + text;
      rest = "";
      while (left !== "") {
        const [whole, parameters = "", letter = ""] = order.exec(left) ?? [];
        if (whole !== undefined) {
          obey(parameters, letter);
          left = left.slice(whole.length);
          continue;
        }
        if (left.startsWith(escape)) {
          rest = left; // the order comes in two parts
          return;
        }
        const [character = ""] = left;
        left = left.slice(character.length);
        if (character === "\n") row += 1;
        else if (character === "\r") column = 0;
        else {
          for (let missing = rows.length; missing <= row; missing++) rows.push([]);
          const line = rows[row] ?? [];
          while (line.length < column) line.push(" ");
          line[column++] = character;
        }
      }
    },
    lines() {
      const lines = rows.map((line) => line.join("").trimEnd());
      return lines.slice(0, lines.findLastIndex((line) => line !== "") + 1);
    },
    get isCursorShown() {
      return isCursorShown;
    },
    get wasCursorHidden() {
      return wasCursorHidden;
    },
    get isPainted() {
      return isPainted;
    },
  };
}

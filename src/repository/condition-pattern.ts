import { RE2JS } from "@bufbuild/re2";

/** A pattern that was compiled, and finds out whether a text has it in it. */
export interface Pattern {
  /** Its instructions. A short one may have many, since it has what is repeated as often as that is counted. */
  readonly size: number;
  /** Calls `take` now and then with the number of instructions that it has visited since, which may stop it by failing. */
  isIn(text: string, take: (visits: number) => void): boolean;
}

/** Visits of instructions after which they are told of. */
const mostUntold = 1000;

/** What instructions of the library do, by its numbers; all others take one character. */
const op = { alt: 1, altMatch: 2, capture: 3, emptyWidth: 4, fail: 5, match: 6, nop: 7 } as const;

/** What holds between two characters, by the library's numbers. */
const place = { lineBegins: 1, lineEnds: 2, textBegins: 4, textEnds: 8, wordBoundary: 16, noWordBoundary: 32 } as const;

/**
 * Compiles a pattern of RE2. Fails with an error that says what is wrong with it.
 *
 * The library compiles, and what it makes is run here: its own engine was seen to take 15 seconds for `(.*){1000}$` and a text of
 * 150,000 characters, since nobody can stop it, and none can say before how long it will take. This one visits an instruction at
 * most once for a character, and is stopped by whoever counts.
 */
export function pattern(expression: string): Pattern {
  const { prog: program } = RE2JS.compile(expression).re2();
  const size = program.numInst();
  return {
    size,

    isIn(text, take) {
      /** At which character, counted from 1, an instruction was visited last. */
      const visited = new Uint32Array(size);
      let stack: number[] = [];
      let following: number[] = [];
      let before: number | undefined;
      let visits = 0;
      for (let [at, count] = [0, 1]; ; count++) {
        const character = text.codePointAt(at);
        let holding: number | undefined;
        // A match may begin anywhere.
        stack.push(program.start);
        for (let index = stack.pop(); index !== undefined; index = stack.pop()) {
          if (visited[index] === count) continue;
          visited[index] = count;
          visits++;
          const instruction = program.getInst(index);
          switch (instruction.op) {
            case op.match:
              return true;
            case op.fail:
              break;
            case op.alt:
            case op.altMatch:
              stack.push(instruction.arg, instruction.out);
              break;
            case op.capture:
            case op.nop:
              stack.push(instruction.out);
              break;
            case op.emptyWidth:
              holding ??= placeBetween(before, character);
              if ((instruction.arg & ~holding) === 0) stack.push(instruction.out);
              break;
            default:
              if (character !== undefined && instruction.matchRune(character)) following.push(instruction.out);
          }
        }
        if (visits > mostUntold || character === undefined) {
          take(visits);
          visits = 0;
        }
        if (character === undefined) return false;
        [stack, following] = [following, stack];
        at += character > 0xff_ff ? 2 : 1;
        before = character;
      }
    },
  };
}

const newLine = 10;

function placeBetween(before: number | undefined, after: number | undefined): number {
  return (
    (before === undefined ? place.textBegins | place.lineBegins : 0) |
    (before === newLine ? place.lineBegins : 0) |
    (after === undefined ? place.textEnds | place.lineEnds : 0) |
    (after === newLine ? place.lineEnds : 0) |
    (isWord(before) === isWord(after) ? place.noWordBoundary : place.wordBoundary)
  );
}

/** Whether a character is one of a word for `\b`, which asks for ASCII only. */
function isWord(character = 0): boolean {
  return character < 128 && /\w/.test(String.fromCharCode(character));
}

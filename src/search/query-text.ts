import { badRequest } from "../schema/refusals.ts";

/** What a text asks for. It holds at least one word or phrase. */
export type Words =
  | Leaf
  | { readonly kind: "not"; readonly of: Words }
  /** All, or any, of several. */
  | { readonly kind: "all" | "any"; readonly of: readonly Words[] };

/** A word, with what may stand for it, or words that follow each other. */
export interface Leaf {
  readonly kind: "leaf";
  readonly text: string;
  readonly match: "word" | "phrase" | "start" | 1 | 2;
}

/** What one text may ask of the server. */
export const limits = { words: 32, depth: 8, charactersBeforeStar: 2, charactersOfFuzzy: 4 } as const;

const special = new Set(['"', "(", ")", "|"]);

/**
 * Reads what a caller looks for; undefined where there is nothing to look for in it. The search servers' own query languages either
 * fail at what people type or take what makes a server scan all its terms: nothing of this text reaches them but words. Fails
 * with `BAD_REQUEST` for `query.text`.
 */
export function parseWords(text: string): Words | "nothing" | undefined {
  const words = new Parser(text).all();
  // Signs alone are in no field: they find nothing, while no text at all finds everything.
  return words ?? (text.trim() === "" ? undefined : "nothing");
}

class Parser {
  readonly #text: string;
  #at = 0;
  #words = 0;

  constructor(text: string) {
    this.#text = text;
  }

  all(): Words | undefined {
    const words = this.#any(0);
    if (this.#at < this.#text.length) throw wrong(`has a bracket at ${this.#at + 1} that was not opened`);
    return words;
  }

  /** What stands between brackets, or at the ends: alternatives. */
  #any(depth: number): Words | undefined {
    if (depth > limits.depth) throw wrong(`must not have more than ${limits.depth} brackets within each other`);
    const alternatives: (Words | undefined)[] = [];
    for (;;) {
      alternatives.push(this.#every(depth));
      if (this.#text[this.#at] !== "|") break;
      this.#at++;
    }
    return joined("any", alternatives);
  }

  #every(depth: number): Words | undefined {
    const items: (Words | undefined)[] = [];
    for (;;) {
      this.#skipBlanks();
      const next = this.#text[this.#at];
      if (next === undefined || next === "|" || next === ")") return joined("all", items);
      items.push(this.#item(depth));
    }
  }

  #item(depth: number): Words | undefined {
    const next = this.#text[this.#at];
    if (next === "-") {
      this.#at++;
      // Of several signs only the first one is no text.
      const isAlone = /^(?:[\s|)-]|$)/.test(this.#text.slice(this.#at, this.#at + 1));
      const of = isAlone ? this.#word() : this.#item(depth);
      return of === undefined ? undefined : { kind: "not", of };
    }
    if (next === "(") return this.#group(depth);
    return next === '"' ? this.#phrase() : this.#word();
  }

  #group(depth: number): Words | undefined {
    const opened = this.#at;
    this.#at++;
    const words = this.#any(depth + 1);
    if (this.#text[this.#at] !== ")") throw wrong(`has a bracket at ${opened + 1} that is not closed`);
    this.#at++;
    return words;
  }

  #phrase(): Words | undefined {
    const opened = this.#at;
    this.#at++;
    let text = "";
    for (;;) {
      const next = this.#text[this.#at];
      if (next === undefined) throw wrong(`has a quotation mark at ${opened + 1} that is not closed`);
      this.#at++;
      if (next === '"') break;
      text += next === "\\" ? this.#escaped() : next;
    }
    return this.#counted(text, { kind: "leaf", text, match: "phrase" });
  }

  #word(): Words | undefined {
    let text = "";
    let plainFrom = 0;
    for (;;) {
      const next = this.#text[this.#at];
      if (next === undefined || /\s/.test(next) || special.has(next)) break;
      this.#at++;
      text += next === "\\" ? this.#escaped() : next;
      if (next === "\\") plainFrom = text.length;
    }
    const [suffix = ""] = /(?:\*|~\d*)$/.exec(text.slice(plainFrom)) ?? [];
    const word = text.slice(0, text.length - suffix.length);
    return this.#counted(word, { kind: "leaf", text: word, match: matchOf(word, suffix) });
  }

  #escaped(): string {
    const next = this.#text[this.#at];
    if (next === undefined) return "\\";
    this.#at++;
    return next;
  }

  /** No analyser finds a word in what has no letter, no digit and no picture. */
  #counted(text: string, words: Words): Words | undefined {
    if (!/[\p{L}\p{N}\p{So}]/u.test(text)) return undefined;
    this.#words++;
    if (this.#words > limits.words) throw wrong(`must not have more than ${limits.words} words and phrases`);
    return words;
  }

  #skipBlanks(): void {
    while (/\s/.test(this.#text[this.#at] ?? "")) this.#at++;
  }
}

function matchOf(text: string, suffix: string): Leaf["match"] {
  const { length } = text;
  if (suffix === "") return "word";
  if (suffix === "*") {
    if (length > 0 && length < limits.charactersBeforeStar) {
      throw wrong(`must have at least ${limits.charactersBeforeStar} characters before a *`);
    }
    return "start";
  }
  if (suffix !== "~" && suffix !== "~1" && suffix !== "~2") throw wrong("must have 1 or 2 after a ~");
  if (length < limits.charactersOfFuzzy) {
    throw wrong(`must have at least ${limits.charactersOfFuzzy} characters before a ~`);
  }
  return suffix === "~2" ? 2 : 1;
}

function joined(kind: "all" | "any", items: readonly (Words | undefined)[]): Words | undefined {
  const [first, ...others] = items.filter((item) => item !== undefined);
  return first === undefined || others.length === 0 ? first : { kind, of: [first, ...others] };
}

function wrong(description: string) {
  return badRequest({ field: "query.text", description });
}

import type { Document } from "bson";
import type { ChangeStreamDocument } from "mongodb";

/** Has the server send an event above 16 MB in parts, where it otherwise ends the stream. It has to come last. */
export const splitting: Document = { $changeStreamSplitLargeEvent: {} };

/** Code of a server that does not know the stage: MongoDB has it since 6.0.9. */
export const unknownStageCode = 40_324;

/** The parts of an event that was too large for one, put together again. */
export class EventParts {
  #fields: Document = {};

  /** Undefined until the last part has come; with its token, which goes on after the whole event. */
  add(part: ChangeStreamDocument): ChangeStreamDocument | undefined {
    const { splitEvent } = part;
    if (splitEvent === undefined) return part;
    Object.assign(this.#fields, part);
    if (splitEvent.fragment < splitEvent.of) return undefined;
    const whole = this.#fields;
    this.#fields = {};
    return whole as ChangeStreamDocument; // each of its fields was in one of the parts
  }

  /** Forgets what has come of an event: it comes again from its beginning. */
  clear(): void {
    this.#fields = {};
  }
}

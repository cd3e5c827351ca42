import { type Document, EJSON } from "bson";

/** A point in the stream of changes of one collection, after everything that a watcher has been told. */
export interface Position {
  /** The server's token to resume from. What it tells then may begin before this point. */
  readonly token: Document;
  /** Everything up to this time of the cluster is passed, but for changes of this very time that follow `last`. */
  readonly time: bigint;
  /** Token of the last change that is passed and has this time; undefined where none has. */
  readonly last: string | undefined;
}

/** A token as text, to be compared. */
export function tokenText(token: Document): string {
  return typeof token["_data"] === "string" ? token["_data"] : EJSON.stringify(token, { relaxed: false });
}

/** A position as text, to be sealed. */
export function positionText({ token, time, last }: Position): string {
  // An event's own token is both.
  const same = last === tokenText(token);
  return EJSON.stringify([token, String(time), same ? true : (last ?? null)], { relaxed: false });
}

/** Reads what `positionText` has written. */
export function positionOf(text: string): Position {
  const [token, time, last] = EJSON.parse(text, { relaxed: false }) as [Document, string, string | true | null];
  return { token, time: BigInt(time), last: last === true ? tokenText(token) : (last ?? undefined) };
}

/** When a change was made, in the time of the cluster, and its token as text. More than one may have the same time. */
export interface Timed {
  readonly time: bigint;
  readonly text: string;
}

/** Without the token: what tells a change that is passed from one that is not. */
export type Place = Pick<Position, "time" | "last">;

/** Whether two places are after the same change. */
export function isSame(one: Place, other: Place): boolean {
  return one.time === other.time && one.last === other.last;
}

/**
 * Tells, of all changes after `floor` in their order, those that come after `place` from those that it has passed. Only the
 * order in the stream tells changes of the same time apart.
 */
export function passing(place: Place, floor: Place): (change: Timed) => boolean {
  let found = place.last !== undefined && isSame(place, floor);
  return ({ time, text }) => {
    if (found || time > place.time) {
      found = true;
      return true;
    }
    found = time === place.time && text === place.last;
    return false;
  };
}

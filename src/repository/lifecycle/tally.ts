import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";

import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import {
  RemovalOutcome,
  type RemovalPlace,
  RemovalPlaceSchema,
  RemovalSchema,
} from "../../../gen/lucid/repository/v1/data_lifecycle_service_pb.ts";

/** Where something is removed, anonymised or kept. */
export interface Place {
  readonly store: Store;
  readonly name: string;
  readonly outcome?: RemovalOutcome;
  readonly note?: string;
}

/** Counts what a removal finds and does, place by place. */
export interface Tally {
  add(place: Place, counts: { readonly found?: number; readonly done?: number; readonly held?: number }): void;
  /** Forgets what waits: it is looked at again. */
  forgetHeld(): void;
  heldCount(): number;
  /** How much was done, in all places. */
  doneCount(): number;
  places(): RemovalPlace[];
  /** Done over found, of what was counted before, 0 to 100. */
  percent(): number;
  encoded(): Uint8Array;
}

export function tally(earlier: readonly MessageInitShape<typeof RemovalPlaceSchema>[] = []): Tally {
  const places = new Map<string, RemovalPlace>();
  for (const init of earlier) {
    const place = create(RemovalPlaceSchema, init);
    places.set(keyOf(place), place);
  }
  const all = () => [...places.values()];
  const sum = (count: (place: RemovalPlace) => bigint) => all().reduce((total, place) => total + count(place), 0n);

  return {
    add({ store, name, outcome = RemovalOutcome.REMOVED, note = "" }, { found = 0, done = 0, held = 0 }) {
      const key = keyOf({ store, name });
      const place = places.get(key) ?? create(RemovalPlaceSchema, { store, name, outcome, note });
      places.set(key, place);
      place.found += BigInt(found);
      place.done += BigInt(done);
      place.held += BigInt(held);
    },
    forgetHeld() {
      for (const place of places.values()) place.held = 0n;
    },
    heldCount: () => Number(sum(({ held }) => held)),
    doneCount: () => Number(sum(({ done }) => done)),
    places: all,
    percent() {
      const isCounted = ({ store, outcome }: RemovalPlace) =>
        store === Store.MONGODB && outcome !== RemovalOutcome.KEPT;
      const found = Number(sum((place) => (isCounted(place) ? place.found : 0n)));
      const done = Number(sum((place) => (isCounted(place) ? place.done : 0n)));
      return found === 0 ? 0 : Math.min(100, (100 * done) / found);
    },
    encoded: () => toBinary(RemovalSchema, create(RemovalSchema, { places: all() })),
  };
}

function keyOf({ store, name }: Pick<RemovalPlace, "store" | "name">): string {
  return `${store}/${name}`;
}

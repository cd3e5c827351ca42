import {
  type CollectionState,
  CollectionStateSchema,
  EnsuredState,
  EnsuredStateSchema,
} from "../../gen/lucid/admin/v1/monitoring_service_pb.ts";
import type { Session } from "./session.ts";
import { nameOf, nothing } from "./units.ts";

/** Shows how what collections must have stands; a conflict is something found. */
export async function showEnsured(session: Session, collections: readonly CollectionState[]): Promise<void> {
  const { output } = session;
  const rows = collections.flatMap(({ collection, things }) => things.map((thing) => ({ collection, ...thing })));
  if (rows.some(({ state }) => state === EnsuredState.CONFLICTING)) session.ending = "found";
  if (output.json) {
    for (const each of collections) await output.message(CollectionStateSchema, each);
    return;
  }
  await output.table(rows, [
    { title: "COLLECTION", of: ({ collection }) => collection },
    { title: "WHAT", of: ({ name }) => name },
    {
      title: "STATE",
      of: ({ state }) => nameOf(EnsuredStateSchema, state),
      style: ({ state }) => (state === EnsuredState.CONFLICTING ? "red" : undefined),
    },
    { title: "PROBLEM", of: ({ problem }) => problem || nothing, mayBeCut: true },
  ]);
}

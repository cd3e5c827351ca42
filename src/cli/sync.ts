import {
  type IndexSync,
  ResyncReasonSchema,
  SyncPhase,
  SyncPhaseSchema,
} from "../../gen/lucid/search/v1/search_sync_service_pb.ts";
import type { Column } from "./output.ts";
import { age, count, duration, nameOf, nothing } from "./units.ts";

/** How an index follows MongoDB, in one line. */
export const syncColumns: readonly Column<IndexSync>[] = [
  { title: "INDEX", of: ({ index }) => index },
  {
    title: "STATE",
    of: ({ phase }) => nameOf(SyncPhaseSchema, phase),
    style: ({ phase }) => (phase === SyncPhase.FOLLOWING ? "green" : "yellow"),
  },
  {
    title: "BEHIND",
    of: ({ lagDocuments, lagIsAtLeast, lag }) =>
      lagDocuments === 0n ? "0" : `${lagIsAtLeast ? "at least " : ""}${count(lagDocuments)} (${duration(lag)})`,
    align: "right",
  },
  { title: "DEAD LETTERS", of: ({ deadLetters }) => count(deadLetters), align: "right" },
  {
    title: "LAST FILLED",
    of: ({ resyncReason, resyncTime }) =>
      resyncTime === undefined ? nothing : `${age(resyncTime)}, ${nameOf(ResyncReasonSchema, resyncReason)}`,
    mayBeCut: true,
  },
  { title: "PROBLEM", of: ({ problem }) => problem || nothing, mayBeCut: true },
];

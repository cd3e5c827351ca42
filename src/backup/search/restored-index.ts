import type { MessageInitShape } from "@bufbuild/protobuf";

import type { RestoredUnitSchema } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import type { Stream, Unit } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { RecordSet } from "../record-set.ts";
import type { IndexDefinition } from "./definition.ts";
import { DocumentLedger } from "./document-ledger.ts";

/**
 * How an index comes to its place: made there, where nothing is; made under another name, which then takes the place of what is
 * there; or its documents are put among those that are there.
 */
export type Way = "make" | "replace" | "overwrite" | "skip";

/** How far an index is. */
export type Stage = "untouched" | "loading" | "loaded" | "compared" | "in place";

/** Where an index goes. */
export interface Placement {
  /** Its name in the end, or that of an alias by which it is known then. */
  readonly name: string;
  /** The index that it is written into. */
  readonly place: string;
  readonly way: Way;
  /** The index that goes when this one takes its place. */
  readonly replaced: string | undefined;
  /** Aliases that it gets, each with its properties as JSON. */
  readonly aliases: ReadonlyMap<string, string>;
}

/** One index of a restore, and what has become of it. */
export class RestoredIndex {
  readonly unit: Unit;
  readonly definition: IndexDefinition;
  readonly placement: Placement;
  /** All documents of the backup, filled while they are written. */
  readonly ledger = new DocumentLedger();
  /** Records whose documents were left alone. */
  readonly skippedRecords: ReadonlyMap<Stream, RecordSet>;
  stage: Stage = "untouched";
  /** Whether it was made by this restore and is not complete. */
  isInterim = false;
  written = 0;
  skipped = 0;
  equalDocuments = 0;
  isEqual = false;
  /** What differs from the backup. */
  remark = "";

  constructor(unit: Unit, definition: IndexDefinition, placement: Placement) {
    this.unit = unit;
    this.definition = definition;
    this.placement = placement;
    this.skippedRecords = new Map(unit.streams.map((stream) => [stream, new RecordSet(stream)]));
  }

  /** Whether its documents are put among others. */
  get merges(): boolean {
    return this.placement.way === "overwrite" || this.placement.way === "skip";
  }

  report(): MessageInitShape<typeof RestoredUnitSchema> {
    const isEqual = this.isEqual && this.stage === "in place";
    return {
      store: Store.SEARCH,
      source: this.unit.name,
      target: this.placement.name,
      expectedItems: this.unit.recordCount,
      writtenItems: BigInt(this.written),
      skippedItems: BigInt(this.skipped),
      equalItems: BigInt(this.equalDocuments),
      equal: isEqual,
      remark: isEqual ? "" : this.remark || this.#howFar(),
    };
  }

  #howFar(): string {
    switch (this.stage) {
      case "untouched":
        return "Nothing was changed";
      case "loading":
        if (this.merges) return `${this.written} documents were put among those that are there`;
        return `${this.written} documents were loaded into an index that is removed again`;
      case "loaded":
        return this.merges ? "In place, not compared" : "Loaded, not compared, not put in place";
      case "compared":
        return "Equal to the backup, not put in place";
      case "in place":
        return "In place, not compared";
      default:
        return this.stage satisfies never;
    }
  }
}

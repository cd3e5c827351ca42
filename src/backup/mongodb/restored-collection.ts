import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Db } from "mongodb";

import type { RestoredUnitSchema } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import type { MongodbCollection, Unit } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { hasOption } from "./catalog.ts";
import { CappedLedger, Ledger } from "./ledger.ts";

/**
 * How a collection comes to its place: made there, where nothing is; made under another name and put in the place of what is
 * there; or made under another name, and its documents put beside those that are there.
 */
export type Way = "make" | "replace" | "overwrite" | "skip";

/** How far a collection is. */
export type Stage = "untouched" | "loading" | "replaying" | "indexing" | "publishing" | "in place" | "compared";

/** One collection, time series or view of a restore, and what has become of it. */
export class RestoredCollection {
  readonly unit: Unit;
  readonly description: MongodbCollection;
  readonly db: Db;
  /** Its name in the end. */
  readonly name: string;
  /** The name that it is written under. */
  readonly place: string;
  readonly way: Way;
  /** What is there in place of which it comes. */
  readonly replaces: "collection" | "timeseries" | "view" | undefined;
  readonly capped: boolean;
  /** What must be at `place`: all documents of the backup at its point in time, once the changes are replayed. */
  readonly ledger: Ledger | CappedLedger;
  stage: Stage = "untouched";
  /** Documents that were put to their place, those that were there and left, and those found equal. */
  written = 0;
  skipped = 0;
  equalDocuments = 0;
  equal = false;
  /** What differs from the backup. */
  remark = "";

  constructor(
    unit: Unit,
    description: MongodbCollection,
    at: {
      readonly db: Db;
      readonly name: string;
      readonly place: string;
      readonly way: Way;
      readonly replaces: RestoredCollection["replaces"];
    },
  ) {
    this.unit = unit;
    this.description = description;
    this.db = at.db;
    this.name = at.name;
    this.place = at.place;
    this.way = at.way;
    this.replaces = at.replaces;
    this.capped = hasOption(description.options, "capped");
    this.ledger = this.capped ? new CappedLedger() : new Ledger();
  }

  get isView(): boolean {
    return this.description.kind === "view";
  }

  /** The collection that its records go to: of a time series the one that its data is kept in, where they are that. */
  get recordsPlace(): string {
    return this.description.buckets ? `system.buckets.${this.place}` : this.place;
  }

  get namespace(): string {
    return `${this.db.databaseName}.${this.name}`;
  }

  /** Whether its documents are put beside others. */
  get merges(): boolean {
    return this.way === "overwrite" || this.way === "skip";
  }

  report(): MessageInitShape<typeof RestoredUnitSchema> {
    const replayed = this.stage !== "untouched" && this.stage !== "loading" && this.stage !== "replaying";
    const expected = replayed && !this.isView ? this.ledger.documents + this.skipped : Number(this.unit.recordCount);
    return {
      store: Store.MONGODB,
      source: this.unit.name,
      target: this.namespace,
      expectedItems: BigInt(expected),
      writtenItems: BigInt(this.written),
      skippedItems: BigInt(this.skipped),
      equalItems: BigInt(this.equalDocuments),
      equal: this.equal,
      remark: this.equal ? "" : this.remark || this.#howFar(),
    };
  }

  #howFar(): string {
    const elsewhere = this.place !== this.name && this.stage !== "in place" && this.stage !== "compared";
    const where = elsewhere ? `; what was there is untouched` : "";
    switch (this.stage) {
      case "untouched":
        return "Nothing was changed";
      case "loading":
        return `${this.ledger.documents} documents were loaded, changes not applied${where}`;
      case "replaying":
        return `All documents were loaded, changes not all applied${where}`;
      case "indexing":
        return `All documents are there, indexes not all built${where}`;
      case "publishing":
        return this.merges ? `${this.written} documents were put beside those that are there` : `Not in its place yet`;
      case "in place":
      case "compared":
        return "In place, not compared";
      default:
        return this.stage satisfies never;
    }
  }
}

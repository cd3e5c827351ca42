import type { MessageInitShape } from "@bufbuild/protobuf";

import type { RestoredUnitSchema } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import type { RedisKeys, Stream, Unit } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { RecordSet } from "../record-set.ts";
import type { Router } from "./deployment.ts";

/** One database of a restore, and what has become of it. */
export class RestoredDatabase {
  readonly unit: Unit;
  readonly description: RedisKeys;
  readonly router: Router;
  /** Records that end keys which were not written. */
  readonly skippedKeys: ReadonlyMap<Stream, RecordSet>;
  /** Names of values that are being put together. */
  readonly interims = new Set<Buffer>();
  stage: "untouched" | "writing" | "in place" | "compared" = "untouched";
  /** Keys that are selected, as far as they are known. */
  expected: number;
  written = 0;
  skipped = 0;
  equalKeys = 0;
  missing = 0;
  different = 0;

  constructor(unit: Unit, description: RedisKeys, router: Router) {
    this.unit = unit;
    this.description = description;
    this.router = router;
    this.expected = Number(description.keyCount);
    this.skippedKeys = new Map(unit.streams.map((stream) => [stream, new RecordSet(stream)]));
  }

  get isEqual(): boolean {
    return this.stage === "compared" && this.equalKeys + this.skipped === this.expected;
  }

  report(): MessageInitShape<typeof RestoredUnitSchema> {
    return {
      store: Store.REDIS,
      source: this.unit.name,
      target: this.unit.name,
      expectedItems: BigInt(this.expected),
      writtenItems: BigInt(this.written),
      skippedItems: BigInt(this.skipped),
      equalItems: BigInt(this.equalKeys),
      equal: this.isEqual,
      remark: this.isEqual ? "" : this.#remark(),
    };
  }

  #remark(): string {
    switch (this.stage) {
      case "untouched":
        return "Nothing was changed";
      case "writing":
        return `${this.written} of ${this.expected} keys were written`;
      case "in place":
        return "In place, not compared";
      case "compared":
        return `${this.missing} keys are missing, ${this.different} are not as in the backup`;
      default:
        return this.stage satisfies never;
    }
  }
}

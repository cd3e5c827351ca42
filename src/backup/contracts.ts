import type { MessageInitShape } from "@bufbuild/protobuf";

import type {
  ConflictPolicy,
  ConsistencyPointSchema,
  JobPhase,
  Rename,
  RestoredUnitSchema,
  Selection,
} from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import type { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import type { Stream, Unit, UnitSchema } from "../../gen/lucid/backup/v1/manifest_pb.ts";

/** Writes one sequence of records into the repository. Disposing it unsealed abandons it. */
export interface StreamWriter extends AsyncDisposable {
  /**
   * Appends records; resolves when there is room for more, so awaiting it is the back-pressure. One call at a time. Keeps no
   * reference to the bytes after that.
   */
  write(records: readonly Uint8Array[]): Promise<void>;
  /**
   * Ends the sequence. Its last chunks may still be on their way: all is durable when the backup itself is sealed, and what a
   * run that died has stored is found by the next one.
   */
  seal(): Promise<Stream>;
}

/** Where a source writes what it reads. Streams may be written in parallel. */
export interface RecordSink {
  open(): StreamWriter;
}

/** Where a target reads what it restores. Yields batches of records in order, each verified before it is handed out. */
export interface RecordSource {
  records(stream: Stream, signal: AbortSignal): AsyncIterable<readonly Uint8Array[]>;
}

/** Counts work as it is done. Synchronous and cheap: called for every batch. Unit names as in the manifest. */
export interface Meter {
  /** Says what a unit is about to take; called once or, with a better count, again. */
  plan(store: Store, unit: string, itemsTotal: number): void;
  /** Says what more of a unit is done. */
  add(store: Store, unit: string, items: number, bytes: number): void;
  /** Says what the job is doing now. */
  phase(phase: JobPhase): void;
}

/** What a source or a target gets to do its work with. */
export interface Work {
  readonly meter: Meter;
  /** Aborted when the job is cancelled, loses its lease or the process drains. */
  readonly signal: AbortSignal;
  /** How many readers or writers may be at work at once. */
  readonly parallelism: number;
}

/** A store that can be backed up. */
export interface Source {
  readonly store: Store;
  /**
   * Finds and counts what is selected (`meter.plan`) and opens whatever must be open before the first record is read.
   * Fails before anything is written where it cannot be done.
   */
  begin(selection: Selection, sink: RecordSink, work: Work): Promise<SourceRun>;
}

/** One backup of one store. The engine calls `read` of all stores, then `cut` of all, then `finish` of all. */
export interface SourceRun extends AsyncDisposable {
  /** Reads what takes long and may be read before the cut. Nothing to do for Redis and search. */
  read(): Promise<void>;
  /** Fixes the point in time that this store's copy is of; quick. Returns its part of the consistency point. */
  cut(): Promise<MessageInitShape<typeof ConsistencyPointSchema>>;
  /** Reads the rest; returns the units with all their streams sealed. */
  finish(): Promise<MessageInitShape<typeof UnitSchema>[]>;
}

/** What of a backup is restored, and how. */
export interface RestorePlan {
  /** The units of this store, narrowed to what is selected. */
  readonly units: readonly Unit[];
  /** What the caller selected: Redis key patterns and MongoDB namespaces narrow what is inside a unit. */
  readonly selection: Selection;
  readonly renames: readonly Rename[];
  readonly conflictPolicy: ConflictPolicy;
}

/** A store that can be restored into. */
export interface Target {
  readonly store: Store;
  /** Checks the plan against the store and changes nothing; throws `RESTORE_CONFLICT` or another reason. */
  prepare(plan: RestorePlan, source: RecordSource, work: Work): Promise<TargetRun>;
}

/** One restore into one store. Calls come in the order of the members. */
export interface TargetRun extends AsyncDisposable {
  /** Writes the data, replays changes, builds indexes, swaps aliases. */
  restore(): Promise<void>;
  /** Compares counts and contents in the store with the backup. */
  compare(): Promise<void>;
  /** What is in place, unit by unit; right at any time, also after a failure. */
  report(): MessageInitShape<typeof RestoredUnitSchema>[];
}

import { mostRevision } from "../../schema/search-copy.ts";

/*
 * Every copy carries an external version, and the server keeps the highest: so a bulk may be sent again or arrive late, and
 * changes may come in any order. The version is made of an epoch and the document's revision:
 *
 *     version = epoch × 2^36 + revision
 *
 * Within an epoch revisions only rise. A restore takes documents back to earlier revisions, and a document that was removed
 * may be created anew with its first one; then a new epoch is begun, whose copies are newer than all that were there.
 * A tombstone has the highest revision of its epoch: nothing that was sent before the removal is newer.
 */

/** Revision of a tombstone. */
export const lastRevision = mostRevision + 1n;

const revisions = lastRevision + 1n;

export function versionOf(epoch: number, revision: bigint): bigint {
  return BigInt(epoch) * revisions + revision;
}

/** The revision that a copy of that version is of; that of a tombstone is higher than any. */
export function revisionOf(version: bigint): bigint {
  return version % revisions;
}

/** The epoch of a version as the server tells it. */
export function epochOf(version: number): number {
  return Math.floor(version / Number(revisions));
}

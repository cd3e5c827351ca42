import type { Document } from "bson";

import { fail } from "../errors.ts";
import type { IndexVersions } from "./index-versions.ts";
import type { SyncAccess } from "./sync/access.ts";
import type { SyncState } from "./sync/state.ts";

/** A swap that was made. */
export interface Swapped extends Pick<Version, "uuid"> {
  /** The version that is live now. */
  readonly place: string;
  /** All changes up to this resume token are in it. */
  readonly token: Document | undefined;
  /** Documents that were read of the collection. */
  readonly documents: number;
  /** What was live before, where that is known. */
  readonly replaced: Version | undefined;
  /** Number of the right to keep the index. */
  readonly fence: number;
  readonly versions: IndexVersions;
  readonly signal: AbortSignal;
}

/** Tells the synchronisation of a swap, so that it goes on with the new version where that has come to. */
export async function noteSwapped(
  name: string,
  { states, indices }: Pick<SyncAccess, "states" | "indices">,
  { place, uuid, token, documents, replaced, fence, versions, signal }: Swapped,
): Promise<void> {
  const alias = indices.alias(name);
  const state = await states.begin(alias, { fence, holder: "rebuild" });
  // It has been told already, or the synchronisation has found out by itself and fills what is there anew.
  if (state.uuid === uuid) return;
  const ensured = await indices.ensure(name, signal);
  await indices.setEpoch(ensured, state.epoch, signal);
  await states.save(alias, fence, {
    phase: "following",
    index: place,
    uuid,
    // Of fields that it got only now, its copies know nothing.
    digest: ensured.state === "extended" ? "" : ensured.digest,
    token,
    fill_after: undefined,
    filled: documents,
    needs_sweep: false,
    resync_wanted: undefined,
    previous: previousOf(state, replaced),
  });
  await versions.remove(state.previous?.index, [place, state.index], signal);
}

/** A version of an index, and the server's own name of it. */
export interface Version {
  readonly index: string;
  readonly uuid: string;
}

/** What is kept of the version that was live. How far one is that the synchronisation did not keep is not known. */
function previousOf(
  { index, uuid, token, phase, digest }: SyncState,
  replaced: Version | undefined,
): SyncState["previous"] {
  const isKept = index !== "" && (replaced === undefined || replaced.uuid === uuid);
  if (!isKept) return replaced;
  return { index, uuid, digest, ...(phase === "following" && token !== undefined && { token }) };
}

/** Fails with `SEARCH_NO_PREVIOUS_VERSION` where a rollback would. */
export async function requirePrevious(name: string, { indices, states }: SyncAccess): Promise<void> {
  if ((await states.find(indices.alias(name)))?.previous === undefined) throw noPrevious(name);
}

export function noPrevious(name: string): Error {
  return fail("SEARCH_NO_PREVIOUS_VERSION", `No earlier version of the index ${name} is kept`, {
    metadata: { index: name },
  });
}

import { fail } from "../../errors.ts";

/** Fails with `CONFIRMATION_MISMATCH` where what destroys was not confirmed. */
export function requireConfirmed(confirmation: string, name: string): void {
  if (confirmation === name) return;
  const fields = [{ field: "confirm_name", description: "must repeat the name of the volume" }];
  throw fail("CONFIRMATION_MISMATCH", "The confirmation is not the name of the volume", {
    fields,
    metadata: { volume: name },
  });
}

/** A job works on the volume. */
export function inUse(name: string, { kind, jobId }: { readonly kind: string; readonly jobId: string }): Error {
  const metadata = { volume: name, kind, job_id: jobId };
  return fail("VOLUME_IN_USE", `A ${kind} job works on the volume ${name}`, { metadata });
}

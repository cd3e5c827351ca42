import { fail } from "../errors.ts";
import type { JobLog } from "../jobs/runner.ts";
import { type BackupRepository, openRepository } from "./repository/repository.ts";

/** A repository that is opened when it is first needed, and again after that failed. */
export interface LazyRepository extends AsyncDisposable {
  /** Fails with `BACKUP_REPOSITORY_NOT_CONFIGURED` and as `openRepository` does. */
  open(): Promise<BackupRepository>;
}

/** Where the repository stands and what unlocks it; empty where not set. */
export interface LazyRepositoryOptions {
  readonly dir: string;
  readonly keyFile: string;
  readonly oldKeyFile: string;
}

/**
 * Neither a folder that is away nor a wrong key keeps the service from starting; each call that needs it says so. With an old key
 * file it is opened at once, so that the key file is changed by the start and not by whoever comes first.
 */
export function lazyRepository(
  { dir, keyFile, oldKeyFile }: LazyRepositoryOptions,
  log: Pick<JobLog, "info" | "warn">,
): LazyRepository {
  let opened: Promise<BackupRepository> | undefined;

  async function openNow(): Promise<BackupRepository> {
    if (dir === "") {
      throw fail(
        "BACKUP_REPOSITORY_NOT_CONFIGURED",
        "This service has no backup repository; LUCID_BACKUP_DIR names its folder",
      );
    }
    const files = { ...(keyFile !== "" && { keyFile }), ...(oldKeyFile !== "" && { oldKeyFile }) };
    const repository = await openRepository({ dir, ...files });
    const { encrypted, keyId, formerKeyId } = repository;
    log.info({ encrypted, ...(keyId !== undefined && { key_id: keyId }) }, "The backup repository is open");
    if (formerKeyId !== undefined) {
      const ids = { key_id: keyId, former_key_id: formerKeyId };
      log.info(ids, "The key file of the backup repository was changed; the old one opens it no more");
    }
    return repository;
  }

  function open(): Promise<BackupRepository> {
    opened ??= openNow().catch((error: unknown) => {
      opened = undefined;
      throw error;
    });
    return opened;
  }

  if (dir !== "" && oldKeyFile !== "") {
    open().catch((err: unknown) => log.warn({ err }, "The key file of the backup repository could not be changed yet"));
  }

  return {
    open,
    async [Symbol.asyncDispose]() {
      const [outcome] = await Promise.allSettled([opened]);
      if (outcome?.status === "fulfilled") await outcome.value?.[Symbol.asyncDispose]();
    },
  };
}

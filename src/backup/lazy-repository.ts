import { fail } from "../errors.ts";
import { type BackupRepository, openRepository } from "./repository/repository.ts";

/** A repository that is opened when it is first needed, and again after that failed. */
export interface LazyRepository extends AsyncDisposable {
  /** Fails with `BACKUP_REPOSITORY_NOT_CONFIGURED` and as `openRepository` does. */
  open(): Promise<BackupRepository>;
}

/** Neither a folder that is away nor a wrong key keeps the service from starting; each call that needs it says so. */
export function lazyRepository({ dir, keyFile }: { readonly dir: string; readonly keyFile: string }): LazyRepository {
  let opened: Promise<BackupRepository> | undefined;

  async function openNow(): Promise<BackupRepository> {
    if (dir === "") {
      throw fail(
        "BACKUP_REPOSITORY_NOT_CONFIGURED",
        "This service has no backup repository; LUCID_BACKUP_DIR names its folder",
      );
    }
    return await openRepository({ dir, ...(keyFile !== "" && { keyFile }) });
  }

  return {
    open() {
      opened ??= openNow().catch((error: unknown) => {
        opened = undefined;
        throw error;
      });
      return opened;
    },
    async [Symbol.asyncDispose]() {
      const [outcome] = await Promise.allSettled([opened]);
      if (outcome?.status === "fulfilled") await outcome.value?.[Symbol.asyncDispose]();
    },
  };
}

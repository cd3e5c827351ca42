import { join } from "node:path";

import { projectFolder } from "./project.ts";

/**
 * What Node needs to know of the service before it begins. By itself Node 24 lets the young generation of its heap grow to 128 MiB
 * where a backup or a stream makes garbage quickly, and keeps that much. With 32 MiB the backup of a gigabyte takes 100 MiB less
 * (`bench/backup.ts`) and no more time. The Dockerfile says the same.
 */
export const serviceNodeOptions: readonly string[] = ["--max-semi-space-size=16"];

/** What Node is started with to run the service. */
export const serviceArguments: readonly string[] = [...serviceNodeOptions, join(projectFolder, "src", "main.ts")];

import { join } from "node:path";

import { projectFolder } from "./project.ts";

/**
 * What Node needs to know of the service before it begins. By itself Node 24 lets the young generation of its heap grow to 128 MiB
 * where a backup or a stream makes garbage quickly, and keeps that much. With 32 MiB the backup of a gigabyte takes 100 MiB less
 * (`bench/backup.ts`) and no more time. And it lets the old one grow to four times what lives in it before it looks for garbage there,
 * where there is memory: with half as much again, a rebuild of a search index of 40,000 documents takes 63 MB instead of 140
 * (`bench/rebuild.ts`), in the same time. No limit comes of that. The Dockerfile says the same.
 */
export const serviceNodeOptions: readonly string[] = ["--max-semi-space-size=16", "--heap-growing-percent=50"];

/**
 * What the C library needs to know. By itself glibc soon takes buffers of many megabytes from its heap, where what is freed stays
 * with the process; told so, it gives those above 256 KiB back. A restore takes 40 MiB less.
 */
export const serviceEnvironment: Readonly<Record<string, string>> = { MALLOC_MMAP_THRESHOLD_: String(256 * 1024) };

/** What Node is started with to run the service. */
export const serviceArguments: readonly string[] = [...serviceNodeOptions, join(projectFolder, "src", "main.ts")];

import { writeSync } from "node:fs";

import { measure } from "../../../src/admin/volume/measure.ts";
import { Directory } from "../../../src/stores/volumes/directory.ts";
import { shownPath, walk } from "../../../src/stores/volumes/walk.ts";

// Walks through a directory, and measures it, as a user with fewer rights than the tests may have.
const [path = ""] = process.argv.slice(2);
const { signal } = new AbortController();

await using root = await Directory.openRoot(path);
const met: string[] = [];
for await (const step of walk(root, { signal })) {
  const about =
    step.type === "entries" ? step.entries.map(({ name }) => shownPath(name)).toSorted() : shownPath(step.path);
  met.push([step.type, about, ...(step.type === "skipped" ? [step.why] : [])].join(" "));
}
const { sums } = await measure(root, { signal });
writeSync(1, JSON.stringify({ met, sums }));

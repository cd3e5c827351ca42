import { renameSync, rmSync, symlinkSync, unlinkSync, writeSync } from "node:fs";

// Swaps a directory for a symlink to another place and back, as fast as it can, until it is killed. What it swaps may be removed,
// replaced or made anew meanwhile.
const [path = "", other = ""] = process.argv.slice(2);
const away = `${path}.away`;

function attempt(step: () => void): void {
  try {
    step();
  } catch {
    // The other side was faster.
  }
}

writeSync(1, "ready\n");
for (;;) {
  attempt(() => renameSync(path, away));
  attempt(() => symlinkSync(other, path));
  attempt(() => unlinkSync(path));
  attempt(() => rmSync(path, { recursive: true }));
  attempt(() => renameSync(away, path));
}

import { renameSync, symlinkSync, unlinkSync, writeSync } from "node:fs";

// Swaps a directory for a symlink to another place and back, as fast as it can, until it is killed.
const [path = "", other = ""] = process.argv.slice(2);
writeSync(1, "ready\n");
for (;;) {
  renameSync(path, `${path}.away`);
  symlinkSync(other, path);
  unlinkSync(path);
  renameSync(`${path}.away`, path);
}

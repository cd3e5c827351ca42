import { writeSync } from "node:fs";

import { migrate } from "../../../src/admin/volume/migration.ts";
import { openVolumes } from "../../../src/stores/volumes/volumes.ts";

// Moves what is in a volume, and dies at a step as by kill -9: nothing is closed, nothing is tidied up.
const [dir = "", dieAt = ""] = process.argv.slice(2);
const volumes = openVolumes({ dir });
await using from = await volumes.open("from");
await using to = await volumes.open("to");
let steps = 0;
writeSync(1, "ready\n");
await migrate({
  id: "the-job",
  from,
  to,
  move: true,
  signal: new AbortController().signal,
  prove: async () => {},
  progress() {},
  step() {
    if (++steps === Number(dieAt)) process.kill(process.pid, "SIGKILL");
  },
});
writeSync(1, `done ${steps}\n`);

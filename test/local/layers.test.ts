import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

import { expect, test } from "vitest";

import { checkLayers } from "../../local/layers.ts";
import { ownFolder } from "./support.ts";

test("imports go downward only", () => {
  using folder = ownFolder();
  const files = {
    "src/backup/deep/engine.ts": `import { a } from "../repository/format.ts";\nimport { b } from "../../jobs/runner.ts";\n`,
    "src/backup/up.ts": `import {\n  c,\n} from "../app.ts";\n`,
    "src/server/grpc.ts": `import type { Db } from "../stores/mongodb.ts";\nimport { d } from "../../gen/a_pb.ts";\n`,
    "src/stores/side.ts": `export { e } from "../schema/codec.ts";\nconst f = await import("../../local/stores.ts");\n`,
    "src/attic/old.ts": "",
  };
  for (const [file, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder.path, file)), { recursive: true });
    writeFileSync(join(folder.path, file), text);
  }
  expect(checkLayers(folder.path).toSorted()).toEqual([
    "src/attic/old.ts: the room attic is not in the table of local/layers.ts",
    "src/backup/up.ts: backup may not import ../app.ts",
    "src/server/grpc.ts: server may not import ../stores/mongodb.ts",
    "src/stores/side.ts: stores may not import ../../local/stores.ts",
    "src/stores/side.ts: stores may not import ../schema/codec.ts",
  ]);
});

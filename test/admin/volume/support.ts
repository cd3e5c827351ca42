import { mkdirSync } from "node:fs";
import { join } from "node:path";

import type { Client } from "@connectrpc/connect";

import { VolumeType } from "../../../gen/lucid/admin/v1/volume_pb.ts";
import { VolumeService } from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import { temporaryFolder } from "../../stores/volumes/support.ts";
import { type TestApp, testApp } from "../../support/app.ts";

/** The whole service with a root for volumes, which are measured only when a test asks for it. */
export interface VolumeApp extends AsyncDisposable {
  readonly app: TestApp;
  readonly volumes: Client<typeof VolumeService>;
  readonly overHttp: Client<typeof VolumeService>;
  /** Folder of the root. */
  readonly root: string;
  /** Path below the root. */
  readonly at: (...names: string[]) => string;
  /** Makes a volume of a name of its own. */
  readonly newVolume: (declaredBytes?: bigint) => Promise<string>;
}

let made = 0;

export async function volumeApp(environment: Readonly<Record<string, string>> = {}): Promise<VolumeApp> {
  await using stack = new AsyncDisposableStack();
  const { path } = stack.use(await temporaryFolder());
  const root = join(path, "root");
  mkdirSync(root);
  const settings = { LUCID_VOLUME_DIR: root, LUCID_VOLUME_MEASURE_MINUTES: "0", ...environment };
  const app = stack.use(await testApp(settings));
  const running = stack.move();
  const volumes = app.client(VolumeService);
  return {
    app,
    volumes,
    overHttp: app.http(VolumeService),
    root,
    at: (...names) => join(root, ...names),
    newVolume: async (declaredBytes = 1_000_000n) => {
      const name = `volume-${++made}`;
      await volumes.createVolume({ volume: { name, type: VolumeType.CHUNKS, declaredBytes } });
      return name;
    },
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  };
}

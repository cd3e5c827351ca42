import { execFileSync } from "node:child_process";
import { mkdirSync, utimesSync, writeFileSync } from "node:fs";
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
  /** Writes files below the root, with their directories; some as if they had not been changed for days. */
  readonly files: (...named: readonly (readonly [path: string, content: string, days?: number])[]) => void;
}

/** As an age: measured at this very moment. */
export const now = { seconds: 0n, nanos: 0 };

export function daysAgo(days: number): Date {
  return new Date(Date.now() - days * 86_400_000);
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
  const at = (...names: readonly string[]) => join(root, ...names);
  return {
    app,
    volumes,
    overHttp: app.http(VolumeService),
    root,
    at,
    newVolume: async (declaredBytes = 1_000_000n) => {
      const name = `volume-${++made}`;
      await volumes.createVolume({ volume: { name, type: VolumeType.CHUNKS, declaredBytes } });
      return name;
    },
    files(...named) {
      for (const [file, content, days] of named) {
        mkdirSync(join(at(file), ".."), { recursive: true });
        writeFileSync(at(file), content);
        if (days !== undefined) utimesSync(at(file), daysAgo(days), daysAgo(days));
      }
    },
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  };
}

/** Has a program mount a file system; why it cannot, where that is so. */
export function mountedBy(program: string, options: readonly string[]): string | undefined {
  try {
    execFileSync(program, options, { stdio: "pipe" });
    return undefined;
  } catch (error) {
    return `no file system can be mounted here: ${String(error).split("\n").at(-1)}`;
  }
}

/** Takes a file system off, also one whose server is gone. */
export function unmount(at: string): void {
  execFileSync("umount", ["--lazy", at]);
}

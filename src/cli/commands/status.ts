import type { Command } from "commander";

import { type Backup, BackupSchema, BackupService, JobState } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import {
  GetHealthResponseSchema,
  HealthStatus,
  HealthStatusSchema,
  MonitoringService,
  type StoreHealth,
} from "../../../gen/lucid/admin/v1/monitoring_service_pb.ts";
import { VolumeSchema } from "../../../gen/lucid/admin/v1/volume_pb.ts";
import { VolumeService } from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import { GetSyncStatusResponseSchema, SearchSyncService } from "../../../gen/lucid/search/v1/search_sync_service_pb.ts";
import { withExamples } from "../examples.ts";
import { tell, toldLines } from "../failure.ts";
import { stateName, storeName, styleOf } from "../job-view.ts";
import { jsonOf, type Column, type Style } from "../output.ts";
import type { Session } from "../session.ts";
import { syncColumns } from "../sync.ts";
import { safe } from "../text.ts";
import { age, bytes, duration, nameOf, nothing } from "../units.ts";
import { volumeColumns } from "../volumes.ts";

/** `lucid status`. */
export function define(status: Command, session: Session): void {
  withExamples(
    status.action(async () => showStatus(session)),
    "lucid status",
    "lucid status --json | jq .health.status",
    "lucid status > /dev/null || echo 'something is not healthy'   # ends with 4 then",
  );
}

/** What a part of the screen is made of, or why there is none: one store that is away must not hide the others. */
type Found<T> = { readonly value: T } | { readonly problem: string };

async function showStatus(session: Session): Promise<void> {
  const { output } = session;
  const call = session.call();
  // Without health there is no service, and nothing to show.
  const asked = session.client(MonitoringService).getHealth({}, call);
  const [health, sync, backups, volumes] = await Promise.all([
    asked,
    found(session, session.client(SearchSyncService).getSyncStatus({}, call)),
    found(session, lastBackups(session)),
    found(session, session.client(VolumeService).listVolumes({ pageSize: 100 }, call)),
  ]);
  if (health.status !== HealthStatus.HEALTHY) session.ending = "found";
  if (output.json) {
    return output.object({
      health: jsonOf(GetHealthResponseSchema, health),
      sync: "value" in sync ? jsonOf(GetSyncStatusResponseSchema, sync.value) : { problem: sync.problem },
      backups:
        "value" in backups
          ? { last: backups.value.map((backup) => jsonOf(BackupSchema, backup)) }
          : { problem: backups.problem },
      volumes:
        "value" in volumes
          ? { volumes: volumes.value.volumes.map((volume) => jsonOf(VolumeSchema, volume)) }
          : { problem: volumes.problem },
    });
  }
  const state = nameOf(HealthStatusSchema, health.status);
  await output.line(`${safe(session.options.address)} is ${output.paint(state, healthStyle(health.status))}`);
  await section(session, "Stores", { value: health.stores }, (stores) => output.table(stores, storeColumns));
  const syncs = "value" in sync ? { value: sync.value.indices } : sync;
  await section(session, "Search follows MongoDB", syncs, (indices) => output.table(indices, syncColumns));
  await section(session, "Last backups", backups, (all) => output.table(all, lastColumns));
  const shown = "value" in volumes ? { value: volumes.value.volumes } : volumes;
  await section(session, "Volumes", shown, (all) => output.table(all, volumeColumns));
}

async function found<T>(session: Session, call: Promise<T>): Promise<Found<T>> {
  try {
    return { value: await call };
  } catch (error) {
    session.signal.throwIfAborted();
    const [first = ""] = toldLines(tell(error, session.options.address));
    return { problem: first.replace(/^lucid: /, "") };
  }
}

async function section<T>(
  { output }: Session,
  title: string,
  part: Found<readonly T[]>,
  show: (rows: readonly T[]) => Promise<void>,
): Promise<void> {
  await output.line();
  await output.line(output.paint(title, "bold"));
  if ("problem" in part) await output.line(output.paint(part.problem, "yellow"));
  else if (part.value.length === 0) await output.line("none");
  else await show(part.value);
}

/** The last one that succeeded, however long ago, and the newest ones since. */
async function lastBackups(session: Session): Promise<readonly Backup[]> {
  const client = session.client(BackupService);
  const [newest, succeeded] = await Promise.all([
    client.listBackups({ pageSize: 2 }, session.call()),
    client.listBackups({ pageSize: 1, state: JobState.SUCCEEDED }, session.call()),
  ]);
  const [last] = succeeded.backups;
  const place = newest.backups.findIndex(({ backupId }) => backupId === last?.backupId);
  if (place !== -1) return newest.backups.slice(0, place + 1);
  return [...newest.backups, ...succeeded.backups];
}

function healthStyle(status: HealthStatus): Style {
  return status === HealthStatus.HEALTHY ? "green" : status === HealthStatus.DEGRADED ? "yellow" : "red";
}

const storeColumns: readonly Column<StoreHealth>[] = [
  { title: "STORE", of: ({ store }) => storeName(store) },
  {
    title: "HEALTH",
    of: ({ status }) => nameOf(HealthStatusSchema, status),
    style: ({ status }) => healthStyle(status),
  },
  { title: "SERVER", of: ({ product, version }) => `${product} ${version}`.trim() || nothing },
  { title: "LATENCY", of: ({ latency }) => duration(latency), align: "right" },
  { title: "PROBLEM", of: ({ problem }) => problem || nothing, mayBeCut: true },
];

const lastColumns: readonly Column<Backup>[] = [
  { title: "BACKUP", of: ({ backupId }) => backupId },
  { title: "STATE", of: ({ state }) => stateName(state), style: ({ state }) => styleOf(state) },
  { title: "CREATED", of: ({ createTime }) => age(createTime) },
  { title: "SIZE", of: ({ logicalBytes }) => bytes(logicalBytes), align: "right" },
  { title: "PROBLEM", of: ({ error }) => error?.reason ?? nothing, mayBeCut: true },
];

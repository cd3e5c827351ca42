import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

/** A process that cannot be mistaken for a later one with the same number. */
export interface ProcessIdentity {
  readonly pid: number;
  /** When it began, in a form that only compares. */
  readonly began: string;
}

/** Identifies a running process; undefined where it has ended, also where only its zombie is left. */
export function identify(pid: number): ProcessIdentity | undefined {
  const began = process.platform === "linux" ? beganOnLinux(pid) : beganElsewhere(pid);
  return began === undefined ? undefined : { pid, began };
}

/** Says whether exactly this process still runs. */
export function isRunning(known: ProcessIdentity): boolean {
  return identify(known.pid)?.began === known.began;
}

let bootId: string | undefined;

function beganOnLinux(pid: number): string | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch {
    return undefined;
  }
  // The second field is the program's name in parentheses, which may itself hold spaces and parentheses.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  if (fields[0] === "Z" || fields[0] === "X") return undefined;
  // Field 22 counts ticks since boot, so the boot is part of the identity.
  bootId ??= readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  return `${bootId}:${fields[19]}`;
}

function beganElsewhere(pid: number): string | undefined {
  try {
    const line = execFileSync("ps", ["-o", "stat=,lstart=", "-p", String(pid)], { encoding: "utf8" }).trim();
    const [state = "", ...began] = line.split(/\s+/);
    return state === "" || state.startsWith("Z") ? undefined : began.join(" ");
  } catch {
    return undefined;
  }
}

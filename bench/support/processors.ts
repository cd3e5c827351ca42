import { execFileSync } from "node:child_process";
import { availableParallelism } from "node:os";

/** Has some processes keep to half of the processors and others to the rest, as if they were two machines; whether that is possible here. */
export function keepApart(some: readonly (number | undefined)[], others: readonly (number | undefined)[]): boolean {
  const count = availableParallelism();
  if (count < 2) return false;
  const half = Math.floor(count / 2);
  try {
    for (const pid of some) keepTo(pid, 0, half - 1);
    for (const pid of others) keepTo(pid, half, count - 1);
    return true;
  } catch {
    return false;
  }
}

/** With all of its threads; those that it makes later are kept there too. */
function keepTo(pid: number | undefined, first: number, last: number): void {
  execFileSync("taskset", ["-a", "-c", "-p", `${first}-${last}`, String(pid)], { stdio: ["ignore", "ignore", "pipe"] });
}

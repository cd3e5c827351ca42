/** Processor time that some work takes, in milliseconds: the same on a busy machine, which makes it wait. */
export function cpuMsOf(work: () => void): number {
  const before = process.threadCpuUsage();
  work();
  const { user, system } = process.threadCpuUsage(before);
  return (user + system) / 1000;
}

import process from "node:process";

import { endOf } from "./end-of.ts";
import { type Ending, exitCodes } from "./exit-codes.ts";
import { openSession } from "./session.ts";

/** Runs `lucid` with the arguments of this process, and ends with the exit code of what became of it. */
await run(process.argv.slice(2));

async function run(argv: readonly string[]): Promise<void> {
  const stop = new AbortController();
  let stoppedBy: Ending | undefined;
  let askedAt = 0;
  const leave = () => {
    // Ctrl-C may arrive from the terminal and once more through npx; somebody who asks later again does not want to wait.
    if (askedAt > 0 && performance.now() - askedAt > 500) process.exit(exitCodes.interrupted.code);
    askedAt ||= performance.now();
    stoppedBy ??= "interrupted";
    stop.abort();
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, leave);
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", ({ code = "" }: NodeJS.ErrnoException) => {
      // A terminal that was closed gives EIO.
      const isUnread = code === "EPIPE" || code === "EIO";
      if (!isUnread && stoppedBy === undefined)
        process.stderr.write(`lucid: The output cannot be written (${code}).\n`);
      stoppedBy ??= isUnread ? "unread" : "failure";
      process.exitCode = exitCodes[stoppedBy].code; // it may be that nothing else is done
      stop.abort();
    });
  }
  const { stdin, stdout, stderr, env: environment } = process;
  await using session = openSession({ stdin, stdout, stderr, environment }, stop.signal);
  const ending = await endOf(session, argv);
  process.exitCode = exitCodes[stoppedBy ?? ending].code;
  if (stoppedBy === "interrupted" && session.leaves !== undefined) session.output.note(session.leaves);
}

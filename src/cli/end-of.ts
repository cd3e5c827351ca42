import type { Ending } from "./exit-codes.ts";
import { jsonLine, tell, toldLines } from "./failure.ts";
import { buildProgram, isTold } from "./program.ts";
import type { Session } from "./session.ts";

/** Runs the command that `argv` names, says what went wrong, and tells how it ended. */
export async function endOf(session: Session, argv: readonly string[]): Promise<Ending> {
  try {
    const program = await buildProgram(session, argv);
    await program.parseAsync(argv, { from: "user" });
    return session.ending;
  } catch (error) {
    if (isTold(error)) return error.exitCode === 0 ? "done" : "usage";
    if (session.signal.aborted) return "interrupted";
    const told = tell(error, session.options.address);
    const { stderr } = session.terminal;
    stderr.write(session.output.json ? jsonLine(told) : `${toldLines(told).join("\n")}\n`);
    return told.ending;
  }
}

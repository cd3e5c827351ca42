import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";

import { runChecks } from "./checks.ts";
import { runInForeground } from "./foreground.ts";
import { goTool } from "./go-tools.ts";
import { localPath, projectFolder, runCommand, say } from "./project.ts";
import { go } from "./toolchains.ts";

/** The parts of vitest's JSON report that are told here. */
interface Report {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
  readonly numTodoTests: number;
}

const CONFORMANCE = "test/conformance/run.ts";

/** Checks, tests, and conformance where its tool can be built. Arguments go to vitest, and with any of them it runs alone. */
await runCommand(async () => {
  const filters = process.argv.slice(2);
  // Tests start the quick start, which waits for this: a build takes minutes beside the tests.
  const grpcurl = goTool("grpcurl").catch(() => undefined);
  const checksPass = filters.length > 0 || (await runChecks());
  await grpcurl;
  const reportFile = join(localPath("logs"), "tests.json");
  rmSync(reportFile, { force: true });
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${reportFile}`];
  const testCode = await runInForeground("vitest", ["run", ...reporters, ...filters]);
  const isInterrupted = testCode > 128;
  const conformanceCode = filters.length > 0 || isInterrupted ? 0 : await runConformance();
  tell(reportFile, { checksPass, conformancePasses: conformanceCode === 0 });
  return testCode || conformanceCode || (checksPass ? 0 : 1);
});

async function runConformance(): Promise<number> {
  if (!existsSync(join(projectFolder, CONFORMANCE))) return 0;
  if (go.find(process.env) === undefined) {
    say("Skipped: the Connect conformance suite, which is built with Go, and Go is not on this machine.");
    return 0;
  }
  return runInForeground(process.execPath, [CONFORMANCE]);
}

/** Ends with one line that counts everything. */
function tell(reportFile: string, also: { checksPass: boolean; conformancePasses: boolean }): void {
  if (!also.checksPass) say("The checks failed; their findings are above.");
  if (!also.conformancePasses) say("The conformance suite failed; its findings are above.");
  if (!existsSync(reportFile)) return say("vitest left no report.");
  // Written by vitest's JSON reporter.
  const report = JSON.parse(readFileSync(reportFile, "utf8")) as Report;
  const skipped = report.numPendingTests + report.numTodoTests;
  process.stdout.write(`${report.numPassedTests} passed, ${report.numFailedTests} failed, ${skipped} skipped\n`);
}

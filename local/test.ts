import { existsSync, readFileSync, rmSync } from "node:fs";
import { join, relative } from "node:path";

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
  readonly testResults: readonly FileReport[];
}

interface FileReport {
  readonly name: string;
  readonly status: string;
  /** Why the file could not be run at all. */
  readonly message: string;
  readonly assertionResults: readonly TestReport[];
}

interface TestReport {
  readonly fullName: string;
  readonly status: string;
  readonly failureMessages: readonly string[];
}

const SHOWN_REASON_LENGTH = 400;

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

/** Ends with the failed tests, which are far above by now, and one line that counts everything. */
function tell(reportFile: string, also: { checksPass: boolean; conformancePasses: boolean }): void {
  if (!also.checksPass) say("The checks failed; their findings are above.");
  if (!also.conformancePasses) say("The conformance suite failed; its findings are above.");
  if (!existsSync(reportFile)) return say("vitest left no report.");
  // Written by vitest's JSON reporter.
  const report = JSON.parse(readFileSync(reportFile, "utf8")) as Report;
  for (const line of failuresIn(report)) say(line);
  const skipped = report.numPendingTests + report.numTodoTests;
  process.stdout.write(`${report.numPassedTests} passed, ${report.numFailedTests} failed, ${skipped} skipped\n`);
}

/** Each failed test with the start of its reason, and each file that could not be run. */
function failuresIn(report: Report): string[] {
  return report.testResults.flatMap(({ name, status, message, assertionResults }) => {
    const file = relative(projectFolder, name);
    const failed = assertionResults
      .filter((test) => test.status === "failed")
      .map(({ fullName, failureMessages }) => failure(`${file}: ${fullName}`, failureMessages[0] ?? ""));
    return status === "failed" && failed.length === 0 ? [failure(file, message)] : failed;
  });
}

function failure(what: string, reason: string): string {
  return `Failed: ${what}\n    ${reason.slice(0, SHOWN_REASON_LENGTH).replaceAll("\n", "\n    ")}`;
}

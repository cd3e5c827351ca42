// A process of its own that works on jobs, to be killed or stopped by a test. Says what it does, a line each.
import { MongoClient } from "mongodb";

import { reasonOf } from "../../src/errors.ts";
import { openJobs } from "../../src/jobs/jobs.ts";
import type { JobContext } from "../../src/jobs/runner.ts";
import { aborted, progress } from "./lease.ts";

const [uri, database, onOwnerLost, leaseMs] = process.argv.slice(2);
if (uri === undefined || database === undefined)
  throw new Error("usage: replica.ts URI DATABASE rerun|interrupt LEASE");

const client = await MongoClient.connect(uri);
const say = (line: string): void => void process.stdout.write(`${line}\n`);
const log = { info() {}, warn() {}, error() {} };
// A lease that is waited out is a short one, and lost as well where the store stalls.
const options = { leaseMs: Number(leaseMs), concurrency: 1, maxAttempts: 100, log };
const jobs = openJobs({ db: client.db(database), ...options, translate: (error) => error });
jobs.handle("work", {
  onOwnerLost: onOwnerLost === "interrupt" ? "interrupt" : "rerun",
  async run(_job, context: JobContext) {
    for (let percent = 1; percent <= 30; percent += 1) context.report(progress(percent), { milestone: true });
    await context.prove();
    say("working");
    // Until it is killed, or learns that the lease is gone.
    const reason = reasonOf(await aborted(context.signal))?.reason;
    context.report(progress(99), { milestone: true });
    const proved = await context.prove().then(
      () => "proved",
      (error: unknown) => reasonOf(error)?.reason,
    );
    say(`stopped ${reason} ${proved}`);
    context.signal.throwIfAborted();
  },
});
jobs.start();
say("ready");

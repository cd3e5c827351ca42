import { availableParallelism } from "node:os";

import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: "test/support/global-setup.ts",
    // The stores need processors too. But many tests only wait: for a lease to run out, for a server to start.
    maxWorkers: Math.max(4, Math.floor(availableParallelism() / 2)),
    // No test changes what others share. Anew in each of 140 files, the modules cost as much as a quarter of the tests.
    isolate: false,
    testTimeout: 240_000,
    hookTimeout: 240_000,
    teardownTimeout: 30_000,
    // For what certainly comes; by itself it is one second, which a busy machine takes for anything.
    expect: { poll: { timeout: 60_000 } },
  },
});

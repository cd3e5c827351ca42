// Starts the service as benchmarks do, without stores, prints its process, and waits.
import { startService } from "../../bench/support/service-process.ts";
import { throwawayFolder } from "../../bench/support/throwaway.ts";

const nowhere = "127.0.0.1:1";
const folder = await throwawayFolder("starter");
const service = await startService({
  LUCID_MONGODB_URI: `mongodb://${nowhere}`,
  LUCID_REDIS_URI: `redis://${nowhere}`,
  LUCID_SEARCH_URI: `http://${nowhere}`,
  LUCID_LOG_LEVEL: "info",
});
process.stdout.write(`${JSON.stringify({ service: service.pid, folder: folder.path })}\n`);
setInterval(() => {}, 60_000);

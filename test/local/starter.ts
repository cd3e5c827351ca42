// Starts a throwaway Redis and one that keeps its data in the folder named, prints what there is to end, and waits.
import { startRedis } from "../../local/redis.ts";

const [kept, throwaway] = await Promise.all([startRedis({ folder: String(process.argv[2]) }), startRedis()]);
process.stdout.write(`${JSON.stringify({ kept: kept.pid, throwaway: throwaway.pid, folder: throwaway.folder })}\n`);
setInterval(() => {}, 60_000);

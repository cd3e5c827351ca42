import { runInForeground } from "./foreground.ts";
import { runCommand } from "./project.ts";

await runCommand(() => runInForeground("buf", ["generate"]));

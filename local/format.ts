import { runInForeground } from "./foreground.ts";
import { runCommand } from "./project.ts";

await runCommand(async () => {
  const code = await runInForeground("oxfmt", ["."]);
  return code || (await runInForeground("buf", ["format", "--write", "--path", "proto/lucid"]));
});

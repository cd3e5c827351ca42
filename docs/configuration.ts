// Makes docs/configuration.md from the table of settings. With `--check` it only says whether the file is fresh.
import { readFileSync, writeFileSync } from "node:fs";
import process from "node:process";

import { settings } from "../src/config.ts";

const file = new URL("configuration.md", import.meta.url);
const groups = Object.entries(settings).map(([group, members]) => {
  const rows = Object.values(members).map(
    ({ name, form, fallback, meaning }) => `| \`${name}\` | ${form} | ${fallback === "" ? "" : `\`${fallback}\``} | ${meaning} |`,
  );
  return `## ${group}\n\n| setting | values | default | meaning |\n| --- | --- | --- | --- |\n${rows.join("\n")}\n`;
});
const text = `# Configuration

Settings come from the environment. Any setting \`NAME\` can be given as \`NAME_FILE\` instead: the path of a file that
holds the value, as container platforms mount secrets. Bad values stop the start with one message that lists all of them;
a name that starts with \`LUCID_\` and is no setting is logged as a warning.

This page is made from \`src/config.ts\` by \`npm run generate\`.

${groups.join("\n")}`;

if (process.argv.includes("--check")) {
  if (readFileSync(file, "utf8") !== text) {
    process.exitCode = 1;
    console.error("docs/configuration.md is stale; run npm run generate");
  }
} else {
  writeFileSync(file, text);
}

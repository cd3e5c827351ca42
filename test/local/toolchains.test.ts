import { expect, test } from "vitest";

import { jdk, maven, need, python } from "../../local/toolchains.ts";
import { ownFolder } from "./support.ts";

test("every missing tool is named at once, with the way to get it", () => {
  using empty = ownFolder();
  const find = () => need({ python, maven }, { PATH: empty.path });
  expect(find).toThrow(
    /^Python 3\.11 or newer .* is missing: install .*LUCID_MONGODB_URI.*\nApache Maven is missing: install .*$/,
  );
});

test("the newest JDK is found, wherever it is", () => {
  const { jdk: home } = need({ jdk });
  expect(need({ jdk }, { PATH: "", JAVA_HOME: "/nowhere" })).toEqual({ jdk: home });
});

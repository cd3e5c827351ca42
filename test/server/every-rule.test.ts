import type { DescMethod } from "@bufbuild/protobuf";
import type { Transport } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";

import { refusalOf } from "../repository/support.ts";
import { type TestApp, testApp } from "../support/app.ts";
import { type Broken, brokenRules, callWith, filledRequest, platformServices } from "../support/requests.ts";

let app: TestApp;
beforeAll(async () => {
  app = await testApp();
});
afterAll(() => app[Symbol.asyncDispose]());

const methods = platformServices().flatMap(({ methods: own }) => own);

async function told(transport: Transport, method: DescMethod, { at, path, rule, value }: Broken): Promise<string[]> {
  const request = filledRequest(method.input, (_, place) => (place === at ? value : undefined));
  const { code, reason, fields } = await refusalOf(callWith(transport, method, request));
  const isTold = code === "InvalidArgument" && reason === "BAD_REQUEST" && fields.includes(path);
  return isTold ? [] : [`${path} (${rule}): ${code} ${reason} ${fields.join(" ")}`];
}

test.for(methods.map((method): [string, DescMethod] => [`${method.parent.name}.${method.name}`, method]))(
  "%s refuses each field that breaks a rule of its proto, by its path, on both listeners",
  async ([, method]) => {
    const untold: string[] = [];
    for (const broken of brokenRules(method.input)) {
      for (const transport of Object.values(app.transports)) untold.push(...(await told(transport, method, broken)));
    }
    expect(untold).toEqual([]);
  },
);

test("the rules of a proto are found, also those of fields within fields", () => {
  const rules = methods.flatMap(({ input }) => brokenRules(input));
  expect(rules.length).toBeGreaterThan(150);
  const paths = new Set(rules.map(({ path, rule }) => `${path} ${rule}`));
  for (const rule of ["user.profile.bio max_len", "user_ids[0] min_len", "user.role defined_only", "user required"])
    expect(paths).toContain(rule);
});

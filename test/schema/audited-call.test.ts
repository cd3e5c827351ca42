import { createContextValues } from "@connectrpc/connect";
import { expect, test } from "vitest";

import { auditApplied, auditCarrier, auditedCall, type Carrier } from "../../src/schema/audited-call.ts";

function call() {
  const handedOver: Carrier[] = [];
  const attempted: Carrier[] = [];
  const values = createContextValues().set(auditedCall, {
    record: { rpc: "test.v1.TestService/Change" },
    attempted,
    byResource: new Map(),
    handOver: (carriers) => void handedOver.push(...carriers),
  });
  const write = (name: string, key = name) =>
    auditCarrier({ values }, { collection: "things", key: { name: key }, resource: { type: "Thing", name } });
  return { attempted, handedOver, write };
}

test("writes of one call to one resource carry one record, those to another another", () => {
  const { attempted, write } = call();
  const [one, same, other] = [write("a"), write("a", "part of a"), write("b")];
  expect(same?.record).toBe(one?.record);
  expect(other?.record["audit_id"]).not.toBe(one?.record["audit_id"]);
  expect(attempted.map(({ key }) => key as unknown)).toEqual([{ name: "a" }, { name: "part of a" }, { name: "b" }]);
});

test("a call that goes on hands over what it has written, and loses none of it", () => {
  const { attempted, handedOver, write } = call();
  const ids = Array.from({ length: 5000 }, (_, index) => write(String(index))?.record["audit_id"] as unknown);
  expect(new Set(ids).size).toBe(5000);
  expect(attempted.length).toBeLessThanOrEqual(2000);
  expect([...handedOver, ...attempted].map(({ record }) => record["audit_id"] as unknown)).toEqual(ids);
});

test("how a write ended is noted with that write, however often a call tries", () => {
  const { attempted, write } = call();
  auditApplied(write("a"), false);
  auditApplied(write("a"), true);
  write("b");
  expect(attempted.map(({ applied }) => applied)).toEqual([false, true, undefined]);
});

test("a call that is not audited has no record", () => {
  const values = createContextValues();
  const carrier = auditCarrier({ values }, { collection: "c", key: {}, resource: { type: "T", name: "n" } });
  expect(carrier).toBeUndefined();
  auditApplied(carrier, true);
});

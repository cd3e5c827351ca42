import { createContextValues, type HandlerContext } from "@connectrpc/connect";
import { deserialize } from "bson";
import fc from "fast-check";
import { MongoClient } from "mongodb";
import { afterAll, beforeAll, expect, test } from "vitest";

import { UserSchema, UserStatus, UserStatusSchema } from "../../gen/lucid/repository/v1/user_pb.ts";
import { type Entity, entity } from "../../src/schema/entity.ts";
import { pageTokens } from "../../src/schema/page-tokens.ts";
import { stateMachine } from "../../src/schema/state-machine.ts";
import { patientCollections, refusalOf, tronAddress } from "../repository/support.ts";
import { runs, within } from "../support/sequences.ts";
import { storeAddresses, uniqueName } from "../support/stores.ts";

const { PENDING_VERIFICATION, ACTIVE, SUSPENDED, INACTIVE, BANNED } = UserStatus;

/** Users have no machine of their own; any message with an enum serves to try one. */
const steps: Readonly<Record<number, readonly number[]>> = {
  [PENDING_VERIFICATION]: [ACTIVE, BANNED],
  [ACTIVE]: [SUSPENDED, INACTIVE, BANNED],
  [SUSPENDED]: [ACTIVE, BANNED],
  [INACTIVE]: [ACTIVE],
  [BANNED]: [],
};
const machine = stateMachine(UserStatusSchema, steps);

let client: MongoClient;
let users: Entity;

beforeAll(async () => {
  client = await MongoClient.connect(storeAddresses().mongodbUri);
  const db = client.db(uniqueName("states"), { useBigInt64: true });
  const collections = patientCollections(db);
  users = entity({
    db,
    schema: UserSchema,
    id: "user_id",
    name: "user",
    reasons: { notFound: "USER_NOT_FOUND", alreadyExists: "USER_ALREADY_EXISTS", notDeleted: "USER_NOT_DELETED" },
    ready: (schema) => collections.ready(schema),
    pageTokens: async () => pageTokens("a secret that is long enough for tests"),
  });
});
afterAll(async () => {
  await users.collection.db.dropDatabase();
  await client.close();
});

/** The parts of a call that an entity reads. */
const context = { values: createContextValues(), timeoutMs: () => undefined } as HandlerContext;

async function newUser(status: UserStatus): Promise<string> {
  const id = uniqueName("user");
  const keys = { email: `${id}@example.com`, tron_address: tronAddress() };
  const document = { user_id: id, ...keys, role: "USER", status: machine.name(status) };
  await users.insert(document, context);
  return id;
}

const take = (id: string, to: UserStatus, etag = "") => users.step(id, { machine, to, etag }, context);

test("a machine knows what comes before each state, and which are terminal", () => {
  expect(new Set(machine.before(ACTIVE))).toEqual(new Set(["SUSPENDED", "INACTIVE", "PENDING_VERIFICATION"]));
  expect(machine.before(PENDING_VERIFICATION)).toEqual([]);
  expect(machine.terminal).toEqual(["BANNED"]);
});

test(
  "any steps, one after the other, are taken exactly where the machine has them",
  async () => {
    const states = [PENDING_VERIFICATION, ACTIVE, SUSPENDED, INACTIVE, BANNED];
    const sequence = fc.array(fc.constantFrom(...states), { maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...states), sequence, async (first, sent) => {
        const id = await newUser(first);
        let [state, revision] = [first, 1];
        for (const to of sent) {
          if (steps[state]?.includes(to)) {
            const found = deserialize((await take(id, to)) ?? new Uint8Array());
            expect(found).toMatchObject({ status: machine.name(to), revision: ++revision });
            state = to;
          } else {
            expect(await refusalOf(take(id, to))).toMatchObject({
              code: "FailedPrecondition",
              reason: "ILLEGAL_TRANSITION",
              metadata: { user_id: id, from: machine.name(state), to: machine.name(to) },
            });
          }
        }
      }),
      runs({ numRuns: 100 }),
    );
  },
  within(),
);

test("of many steps at once that exclude each other, one is taken", async () => {
  const id = await newUser(PENDING_VERIFICATION);
  const calls = await Promise.allSettled(Array.from({ length: 20 }, () => take(id, ACTIVE)));
  expect(calls.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
});

test("a step refuses one that is not there, one that was changed, and one that its filter leaves out", async () => {
  expect(await refusalOf(take("nobody", ACTIVE))).toMatchObject({ code: "NotFound", reason: "USER_NOT_FOUND" });
  const id = await newUser(ACTIVE);
  expect(await refusalOf(take(id, SUSPENDED, '"7"'))).toMatchObject({ code: "Aborted", reason: "ETAG_MISMATCH" });
  expect(await users.step(id, { machine, to: SUSPENDED, filter: { role: "ADMIN" } }, context)).toBeNull();
  await users.delete(id, { etag: "", validateOnly: false }, context);
  expect(await refusalOf(take(id, SUSPENDED))).toMatchObject({ code: "NotFound", reason: "USER_NOT_FOUND" });
});

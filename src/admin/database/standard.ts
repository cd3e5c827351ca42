import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import type { Db } from "mongodb";

import { CollectionSchema } from "../../../gen/lucid/admin/v1/collection_pb.ts";
import type { DatabaseAdminService } from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import type { CollectionStateSchema } from "../../../gen/lucid/admin/v1/monitoring_service_pb.ts";
import type { CarryOut } from "../../schema/audited-call.ts";
import { cancellable, deadlineOf } from "../../schema/call-options.ts";
import { ensureValidator, standingOf, type WantedCollection } from "../../schema/collection-keeper.ts";
import { translateStoreError } from "../../stores/errors.ts";
import { ensuredThing } from "../ensured.ts";
import { collectionNotFound, type Names } from "./names.ts";

/** What seeing to the domain's collections needs. */
export interface StandardAdminOptions {
  readonly names: Names;
  /** The domain's database. */
  readonly domain: Db;
  /** What its collections must have. */
  readonly standard: readonly WantedCollection[];
  readonly carryOut: CarryOut;
}

/** Those that are asked for, or all. Fails with `COLLECTION_NOT_FOUND`, before anything is done. */
export function chosenStandard(
  standard: readonly WantedCollection[],
  asked: readonly string[],
  names: Names,
): readonly WantedCollection[] {
  if (asked.length === 0) return standard;
  return asked.map((collection) => {
    const wanted = standard.find(({ name }) => name === collection);
    if (wanted === undefined) throw collectionNotFound(names.collection({ database: "", collection }, "collections"));
    return wanted;
  });
}

/** The handlers that see to what the service stores the domain in. */
export function standardAdmin({
  names,
  domain,
  standard,
  carryOut,
}: StandardAdminOptions): Pick<ServiceImpl<typeof DatabaseAdminService>, "ensureCollections"> {
  return {
    async ensureCollections({ collections: asked, validateOnly }, context) {
      const collections: MessageInitShape<typeof CollectionStateSchema>[] = [];
      const wanted = chosenStandard(standard, asked, names);
      if (validateOnly) {
        const look = cancellable(context);
        for (const { name, validator } of wanted) {
          const things = await standingOf(domain, { name, indexes: [], ...(validator && { validator }) }, look);
          collections.push({ collection: name, things: things.map(ensuredThing) });
        }
        return { collections };
      }
      const resource = { type: CollectionSchema.name, name: wanted.map(({ name }) => name).join(",") };
      return carryOut(context, resource, async () => {
        for (const { name, validator = {} } of wanted) {
          const thing = await ensureValidator(domain, name, validator, deadlineOf(context)).catch((error: unknown) => {
            throw translateStoreError(error);
          });
          collections.push({ collection: name, things: [ensuredThing(thing)] });
        }
        return { collections };
      });
    },
  };
}

import type { DescMessage } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import type { Document } from "bson";

import { fail, type Reason } from "../errors.ts";
import { duplicateKey } from "./create-once.ts";
import { badRequest } from "./refusals.ts";
import { etagOf } from "./stored-field.ts";

/** What entities of one kind are called in failures. */
export interface Named {
  readonly schema: DescMessage;
  /** Stored name of the field that identifies one, for example `user_id`. */
  readonly id: string;
  /** What one is called in requests, for example `user`. */
  readonly name: string;
  /** `notDeleted` where one can be undeleted. */
  readonly reasons: { readonly notFound: Reason; readonly alreadyExists: Reason; readonly notDeleted?: Reason };
}

/** Why a call about an entity is refused, in the words that all of them share. */
export interface EntityRefusals {
  /** Names `about`, stored names with their values. */
  readonly notFound: (about: Record<string, string>) => ConnectError;
  /** Names fields of the request, by their stored names. */
  readonly mustBeSet: (paths: readonly string[]) => ConnectError;
  /** Tells the etag that the document has now. */
  readonly etagMismatch: (id: string, found: Document) => ConnectError;
  readonly illegalStep: (id: string, from: string, to: string) => ConnectError;
  readonly notDeleted: (id: string) => ConnectError;
  /** The refusal of a key that another has. */
  readonly keyTaken: (field: string, cause?: unknown) => ConnectError;
  /** Turns the refusal of a key that another has into one that names it; returns anything else as it is. */
  readonly alreadyExists: (error: unknown) => unknown;
}

export function entityRefusals({ schema, id: idName, name, reasons }: Named): EntityRefusals {
  // `hardware_wallet` as a sentence has it.
  const spoken = name.replaceAll("_", " ");

  const keyTaken = (field: string, cause?: unknown) =>
    fail(reasons.alreadyExists, `There is another ${spoken} with that ${field}`, {
      metadata: { field },
      fields: [{ field: `${name}.${field}`, description: "is taken" }],
      cause,
    });

  return {
    notFound(about) {
      const [[key, value] = [idName, ""]] = Object.entries(about);
      return fail(reasons.notFound, `There is no ${spoken} with ${key} ${value}`, {
        metadata: about,
        resource: { type: schema.typeName, name: value },
      });
    },

    mustBeSet: (paths) =>
      badRequest(...paths.map((path) => ({ field: `${name}.${path}`, description: "must be set" }))),

    etagMismatch(id, { revision }) {
      const etag = etagOf(BigInt(revision as bigint | number)); // a stored revision
      return fail("ETAG_MISMATCH", `The ${spoken} ${id} was changed meanwhile`, { metadata: { [idName]: id, etag } });
    },

    illegalStep: (id, from, to) =>
      fail("ILLEGAL_TRANSITION", `The ${spoken} ${id} cannot go from ${from} to ${to}`, {
        metadata: { [idName]: id, from, to },
      }),

    notDeleted: (id) =>
      fail(reasons.notDeleted ?? reasons.notFound, `The ${spoken} ${id} is not deleted`, {
        metadata: { [idName]: id },
      }),

    keyTaken,

    alreadyExists(error) {
      const [field] = duplicateKey(error) ?? [];
      return field === undefined ? error : keyTaken(field, error);
    },
  };
}

import { type DescMessage, getOption } from "@bufbuild/protobuf";

import { type Lifecycle, lifecycle as lifecycleOption } from "../../../gen/lucid/options/v1/options_pb.ts";
import { collectionOf } from "../../schema/collection.ts";

/** The documents of one message, and what becomes of them for good. */
export interface StoredKind {
  readonly name: string;
  /** The field that identifies one: what its first unique index is of. */
  readonly id: string | undefined;
  readonly lifecycle: Lifecycle;
  /** Whether they are deleted softly, and can then be undeleted. */
  readonly isDeletedSoftly: boolean;
  /** Whether they count their writes. */
  readonly hasRevision: boolean;
  /** Fields that an index starts with. */
  readonly indexed: ReadonlySet<string>;
  /** What goes before they go: documents that have the same value in the field `key`. */
  readonly parts: readonly { readonly kind: StoredKind; readonly key: string }[];
}

/** What the messages say of their documents, wholes and parts linked. */
export function storedKinds(messages: readonly DescMessage[]): readonly StoredKind[] {
  const kinds = messages.map((schema) => {
    const has = (field: string) => schema.fields.some(({ name }) => name === field);
    const { name: collection, indexes } = collectionOf(schema);
    return {
      name: collection,
      id: indexes
        .find(({ unique, key }) => unique && key.size === 1)
        ?.key.keys()
        .next().value,
      lifecycle: getOption(schema, lifecycleOption),
      isDeletedSoftly: has("deleted_at"),
      hasRevision: has("revision"),
      indexed: new Set(indexes.map(({ key }) => key.keys().next().value ?? "")),
      parts: [] as { kind: StoredKind; key: string }[],
    };
  });
  for (const kind of kinds) {
    for (const { collection, key } of kind.lifecycle.partOf) {
      const whole = kinds.find(({ name }) => name === collection);
      if (whole === undefined) throw new Error(`${kind.name} is a part of ${collection}, which is no collection`);
      whole.parts.push({ kind, key });
    }
  }
  return kinds;
}

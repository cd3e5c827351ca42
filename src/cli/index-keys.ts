import { type IndexKey, IndexKeyType, IndexKeyTypeSchema } from "../../gen/lucid/admin/v1/collection_index_pb.ts";
import { choicesOf } from "./choices.ts";
import { Failure } from "./failure.ts";
import { nameOf } from "./units.ts";

const keyTypes = choicesOf(IndexKeyTypeSchema);

/** Reads `FIELD` or `FIELD:TYPE`. */
export function readKey(text: string): { field: string; type: IndexKeyType } {
  const place = text.lastIndexOf(":");
  if (place === -1) return { field: text, type: IndexKeyType.ASCENDING };
  const type = keyTypes.get(text.slice(place + 1)) as IndexKeyType | undefined; // the map is of that enum
  if (type === undefined)
    throw new Failure("usage", `A key is FIELD or FIELD:TYPE, of ${[...keyTypes.keys()].join(", ")}`);
  return { field: text.slice(0, place), type };
}

/** Writes a key as it is read. */
export function keyText({ field, type, serverType }: IndexKey): string {
  if (type === IndexKeyType.ASCENDING) return field;
  return `${field}:${nameOf(IndexKeyTypeSchema, type).replaceAll(" ", "-") || serverType}`;
}

import { BSON } from "mongodb";

import { bsonType, documentOf, elementsOf, type RawElement, rawElement, valueBytes } from "./raw-bson.ts";

/**
 * A document as the driver takes it in a command. Maps, since objects move names that look like numbers to the front and the
 * order of names matters: in keys of indexes, and in a document that is an `_id`.
 */
export function orderedDocument(document: Uint8Array): Map<string, unknown> {
  return new Map(Array.from(elementsOf(document), (element) => [element.name, orderedValue(document, element)]));
}

/** The value of what `idOf` returns, as the driver takes it in a command. */
export function idValue(id: Uint8Array): unknown {
  return orderedDocument(documentOf([id])).get("_id");
}

function orderedValue(document: Uint8Array, element: RawElement): unknown {
  const bytes = valueBytes(document, element);
  if (element.type === bsonType.document) return orderedDocument(bytes);
  if (element.type === bsonType.array) return Array.from(elementsOf(bytes), (each) => orderedValue(bytes, each));
  const alone = documentOf([rawElement(element.type, "value", bytes)]);
  // Neither numbers nor regular expressions may become what JavaScript has of the kind: that would change their types.
  const { value } = BSON.deserialize(alone, { promoteValues: false, bsonRegExp: true }) as { value: unknown };
  return value;
}

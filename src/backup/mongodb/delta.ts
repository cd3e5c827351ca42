import {
  bsonType,
  documentIn,
  documentOf,
  elementsOf,
  numberValue,
  type RawElement,
  rawElement,
  textValue,
  valueBytes,
} from "./raw-bson.ts";

/**
 * Applies the `updateDescription` of a change event to a document: pure, and never refused.
 *
 * It is a function of ours and no update command, for three reasons. A command fails where a path leads through a value that
 * is no document; here that is the normal case of a document that was read after a later change had put it there (see
 * `source.ts`: the later change follows and sets things right). Field names with dots and dollars have no path in a command.
 * And no value is decoded on its way.
 *
 * What is there before does not matter for the paths that the description names: applied to any document, it leaves those as
 * the server left them. A step of a path that meets anything else than a document or an array puts a document there.
 */
export function applyDelta(document: Uint8Array, update: Uint8Array): Buffer {
  const exactPaths = exactPathsOf(documentIn(update, "disambiguatedPaths"));
  const pathOf = (text: string): Path => exactPaths.get(text) ?? text.split(".");
  const root = branchOf(document, false);
  const removed = documentIn(update, "removedFields");
  if (removed !== undefined) {
    for (const element of elementsOf(removed)) remove(root, pathOf(textValue(removed, element)));
  }
  const truncated = documentIn(update, "truncatedArrays");
  if (truncated !== undefined) {
    for (const element of elementsOf(truncated)) truncate(root, valueBytes(truncated, element), pathOf);
  }
  const updated = documentIn(update, "updatedFields");
  if (updated !== undefined) {
    for (const element of elementsOf(updated)) {
      set(root, pathOf(element.name), element.type, valueBytes(updated, element));
    }
  }
  return bytesOf(root);
}

/** Steps from the document to a value: names of fields, and numbers where it is known that they are places in arrays. */
type Path = readonly (string | number)[];

/** A document or an array that is looked into; what is not stays bytes. */
interface Branch {
  readonly isArray: boolean;
  readonly children: Child[];
}

interface Child {
  readonly name: string;
  type: number;
  value: Uint8Array | Branch;
  /** The whole element as it was read, while it is unchanged. */
  raw: Uint8Array | undefined;
}

/** More places than any array of 16 MB has. */
const mostPlaces = 4 * 1024 * 1024;

const nothing = new Uint8Array(0);

/** Paths of which a name has a dot in it or is a number: there the event says what each step is. */
function exactPathsOf(described: Uint8Array | undefined): Map<string, Path> {
  const paths = new Map<string, Path>();
  if (described === undefined) return paths;
  for (const element of elementsOf(described)) {
    const steps = valueBytes(described, element);
    paths.set(
      element.name,
      Array.from(elementsOf(steps), (step) =>
        step.type === bsonType.string ? textValue(steps, step) : numberOf(steps, step),
      ),
    );
  }
  return paths;
}

function numberOf(document: Uint8Array, element: RawElement): number {
  const number = numberValue(document, element);
  if (number === undefined) throw new Error("A change event has a value of a type that it cannot have");
  return number;
}

function branchOf(bytes: Uint8Array, isArray: boolean): Branch {
  const children = Array.from(elementsOf(bytes), (element) => ({
    name: element.name,
    type: element.type,
    value: valueBytes(bytes, element),
    raw: bytes.subarray(element.start, element.end),
  }));
  return { isArray, children };
}

/** The place in an array that a step names; undefined for a name. */
function placeOf(step: string | number): number | undefined {
  if (typeof step === "number") return step;
  const place = /^(0|[1-9]\d{0,6})$/.test(step) ? Number(step) : mostPlaces;
  return place < mostPlaces ? place : undefined;
}

function childOf(branch: Branch, step: string | number): Child | undefined {
  if (branch.isArray) {
    const place = placeOf(step);
    return place === undefined ? undefined : branch.children[place];
  }
  const name = String(step);
  return branch.children.find((child) => child.name === name);
}

/** The branch that a child is, opened for changes; undefined where it is none. */
function openedOf(child: Child): Branch | undefined {
  if (!(child.value instanceof Uint8Array)) return child.value;
  if (child.type !== bsonType.document && child.type !== bsonType.array) return undefined;
  child.value = branchOf(child.value, child.type === bsonType.array);
  child.raw = undefined;
  return child.value;
}

/** The branch at the end of a path, where there is one. */
function reach(root: Branch, path: Path): Branch | undefined {
  let branch: Branch | undefined = root;
  for (const step of path) {
    const child: Child | undefined = childOf(branch, step);
    branch = child === undefined ? undefined : openedOf(child);
    if (branch === undefined) return undefined;
  }
  return branch;
}

function remove(root: Branch, path: Path): void {
  const last = path.at(-1);
  const parent = reach(root, path.slice(0, -1));
  if (last === undefined || parent === undefined) return;
  const child = childOf(parent, last);
  if (child === undefined) return;
  if (parent.isArray) {
    // Places of arrays are not removed but emptied.
    put(child, bsonType.null, nothing);
  } else {
    parent.children.splice(parent.children.indexOf(child), 1);
  }
}

function truncate(root: Branch, description: Uint8Array, pathOf: (text: string) => Path): void {
  let field = "";
  let size: number | undefined;
  for (const element of elementsOf(description)) {
    if (element.name === "field") field = textValue(description, element);
    if (element.name === "newSize") size = numberOf(description, element);
  }
  const array = reach(root, pathOf(field));
  if (size !== undefined && array?.isArray === true && array.children.length > size) array.children.length = size;
}

function set(root: Branch, path: Path, type: number, value: Uint8Array): void {
  let branch = root;
  for (const [index, step] of path.entries()) {
    if (branch.isArray && placeOf(step) === undefined) throw new Error("A path was not opened as a document");
    const child = childOf(branch, step) ?? added(branch, step);
    const next = path[index + 1];
    if (next === undefined) {
      put(child, type, value);
      return;
    }
    const opened = openedOf(child);
    if (opened !== undefined && (!opened.isArray || placeOf(next) !== undefined)) {
      branch = opened;
      continue;
    }
    // Something later is here; the change that put it here follows.
    branch = { isArray: false, children: [] };
    put(child, bsonType.document, branch);
  }
}

function added(branch: Branch, step: string | number): Child {
  const place = branch.isArray ? placeOf(step) : undefined;
  if (place !== undefined) {
    while (branch.children.length < place) {
      branch.children.push(empty(String(branch.children.length)));
    }
  }
  const child = empty(String(step));
  branch.children.push(child);
  return child;
}

function empty(name: string): Child {
  return { name, type: bsonType.null, value: nothing, raw: undefined };
}

function put(child: Child, type: number, value: Uint8Array | Branch): void {
  child.type = type;
  child.value = value;
  child.raw = undefined;
}

function bytesOf(branch: Branch): Buffer {
  return documentOf(
    branch.children.map(
      ({ name, type, value, raw }) =>
        raw ?? rawElement(type, name, value instanceof Uint8Array ? value : bytesOf(value)),
    ),
  );
}

import { readFile } from "node:fs/promises";
import { addAbortSignal } from "node:stream";
import { buffer } from "node:stream/consumers";

import type { JsonObject, JsonValue } from "@bufbuild/protobuf";

import { Failure } from "./failure.ts";
import type { Session } from "./session.ts";

/** Reads an option that takes text, `@FILE`, or `-` for standard input, as bytes. */
export async function readBytes({ terminal, signal }: Session, given: string, option: string): Promise<Uint8Array> {
  if (given === "-") {
    // Whoever is to type something may want no more.
    return buffer(addAbortSignal(signal, terminal.stdin));
  }
  if (!given.startsWith("@")) return Buffer.from(given);
  try {
    return await readFile(given.slice(1), { signal });
  } catch (error) {
    signal.throwIfAborted();
    const { code = "" } = error as NodeJS.ErrnoException; // what the file system throws has one
    throw new Failure("usage", `${option}: ${given.slice(1)} cannot be read (${code})`);
  }
}

/** The same for what is text alone. */
export async function readText(session: Session, given: string, option: string): Promise<string> {
  const bytes = await readBytes(session, given, option);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Failure("usage", `${option}: it is no text in UTF-8`);
  }
}

/** Reads an option that takes JSON, and makes of it what `parse` does. */
export async function readJson<T>(
  session: Session,
  given: string,
  option: string,
  parse: (json: JsonValue) => T,
): Promise<T> {
  const json = await readText(session, given, option);
  try {
    return parse(JSON.parse(json) as JsonValue); // whatever it is, the parser of messages checks it
  } catch (error) {
    throw new Failure("usage", `${option}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Reads an option that takes a document as JSON. */
export async function readDocument(session: Session, given: string, option: string): Promise<JsonObject> {
  return readJson(session, given, option, (json) => {
    if (typeof json !== "object" || json === null || Array.isArray(json)) throw new Error("it is no object");
    return json;
  });
}

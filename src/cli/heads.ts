import { appendFile, readFile } from "node:fs/promises";

import { Failure } from "./failure.ts";

/** Size and root of a tree over the audit log. */
export interface TreeHead {
  readonly treeSize: bigint;
  readonly rootHash: string;
}

const written = /^(\d{1,16}):([0-9a-f]{64})\s*$/;

/** Reads `SIZE:ROOT`; undefined where it is none. */
export function readTreeHead(text: string): TreeHead | undefined {
  const [, size = "", rootHash = ""] = written.exec(text) ?? [];
  return size === "" ? undefined : { treeSize: BigInt(size), rootHash };
}

export function shownHead({ treeSize, rootHash }: TreeHead): string {
  return `${treeSize}:${rootHash}`;
}

/**
 * The largest head that a file remembers, one a line; undefined where there is no such file yet, or nothing in it. The others it holds
 * lie in it: each was proved to when the next one was remembered.
 */
export async function largestHead(file: string): Promise<TreeHead | undefined> {
  const text = await readFile(file, "utf8").catch((error: unknown) => {
    const { code = "" } = error as NodeJS.ErrnoException; // what the file system throws has one
    if (code === "ENOENT") return "";
    throw new Failure("usage", `--heads: ${file} cannot be read (${code})`);
  });
  let largest: TreeHead | undefined;
  for (const [index, line] of text.split("\n").entries()) {
    if (line.trim() === "") continue;
    const head = readTreeHead(line);
    if (head === undefined) throw new Failure("usage", `--heads: line ${index + 1} of ${file} is no SIZE:ROOT`);
    if (head.treeSize === largest?.treeSize && head.rootHash !== largest.rootHash) {
      throw new Failure("forged", `${file} remembers two different trees of ${head.treeSize} records`);
    }
    if (largest === undefined || head.treeSize > largest.treeSize) largest = head;
  }
  return largest;
}

/** Remembers one head more. In one write, so that two runs at once do not mix their lines. */
export async function rememberHead(file: string, head: TreeHead): Promise<void> {
  const line = shownHead(head);
  // Whoever made it is not trusted: it could be lines of its own, or orders to a terminal.
  if (readTreeHead(line) === undefined)
    throw new Failure("forged", "The root of the log that the service names is none");
  try {
    await appendFile(file, `${line}\n`, { flush: true });
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException; // what the file system throws has one
    throw new Failure("failure", `--heads: ${file} cannot be written (${code})`);
  }
}

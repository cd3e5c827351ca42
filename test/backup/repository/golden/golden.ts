import { createHash } from "node:crypto";

/** Repositories as the first version of the format wrote them. They must stay readable; new versions add their own. */
export const GOLDEN = [
  {
    folder: "v1-encrypted",
    encrypted: true,
    rootHash: "429174a1bc5828e925eae2e0268380695e6c5fd854f24d46b5081331c585cfff",
  },
  {
    folder: "v1-plain",
    encrypted: false,
    rootHash: "d731585ef8d4d6ae5ce159b242930f37b21d1065034f43c539b46c8106d09522",
  },
] as const;

/** The records in them: short and empty ones, one that is longer than a chunk, a stream without any. */
export function goldenStreams(): Buffer[][] {
  const text = (seed: string, bytes: number) => {
    const parts: string[] = [];
    for (let i = 0; parts.length * 65 < bytes; i++)
      parts.push(
        createHash("sha256")
          .update(`${seed} ${i % 40}`)
          .digest("hex"),
      );
    return Buffer.from(parts.join("\n").slice(0, bytes));
  };
  return [
    Array.from({ length: 500 }, (_, i) => text(`record ${i}`, (i * 37) % 700)),
    [text("long", 600_000), Buffer.alloc(0), Buffer.from("last")],
    [],
  ];
}

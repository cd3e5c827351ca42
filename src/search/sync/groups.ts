/** Documents that are in memory at once, and bytes of them. */
export const mostDocuments = 1000;
const mostBytes = 4 * 1024 * 1024;

/** What is read cannot be rolled back: no change would tell of that. */
export const majority = { readPreference: "primary", readConcern: { level: "majority" } } as const;

/** Documents of a cursor, raw, in groups that are written at once. */
export async function* groups(documents: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array[]> {
  let [group, bytes]: [Uint8Array[], number] = [[], 0];
  for await (const document of documents) {
    group.push(document);
    bytes += document.byteLength;
    if (group.length < mostDocuments && bytes < mostBytes) continue;
    yield group;
    [group, bytes] = [[], 0];
  }
  if (group.length > 0) yield group;
}

import type { Hit, Page, PointInTime } from "./point-in-time.ts";
import { AnswerTooLong } from "./requests.ts";

/** About as many bytes are asked for at once. */
const pageBytes = 2 * 1024 * 1024;
/** An answer that is longer is given up, and a smaller page asked for; one document may be longer. */
const mostPageBytes = 16 * 1024 * 1024;
const firstSize = 100;

/** Reads one of the slices of a point in time, page by page, each of some 2 MB whatever the size of the documents. */
export async function* readSlice(
  pointInTime: PointInTime,
  { slice, mostHits }: { readonly slice: { readonly id: number; readonly max: number }; readonly mostHits: number },
): AsyncGenerator<readonly Hit[]> {
  let size = Math.min(firstSize, mostHits);
  let after: string | undefined;
  for (;;) {
    let page: Page;
    try {
      const mostBytes = size === 1 ? Number.MAX_SAFE_INTEGER : mostPageBytes;
      page = await pointInTime.page({ size, slice, after, mostBytes });
    } catch (error) {
      if (!(error instanceof AnswerTooLong)) throw error;
      size = Math.max(1, Math.floor(size / 4));
      continue;
    }
    if (page.hits.length === 0) return;
    yield page.hits;
    if (page.hits.length < size) return;
    ({ after } = page);
    const fitting = Math.floor((pageBytes * page.hits.length) / page.bytes);
    size = Math.min(Math.max(fitting, 1), size * 4, mostHits);
  }
}

/** How many slices an index is read in: more than one where it is worth it. */
export function sliceCount(documents: number, parallelism: number): number {
  return documents < 20_000 ? 1 : parallelism;
}

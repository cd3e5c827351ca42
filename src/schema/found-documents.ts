import type { DescMessage } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";

type Context = Pick<HandlerContext, "signal" | "timeoutMs" | "values">;

/** The documents that searches find, where they are stored. */
export interface FoundDocuments {
  /** By their ids, as they are now; without those that are gone and, unless they are to be shown, deleted ones. */
  read(
    wanted: {
      readonly schema: DescMessage;
      /** Stored name of the field that identifies one. */
      readonly id: string;
      readonly ids: readonly string[];
      readonly showDeleted: boolean;
    },
    context: Context,
  ): Promise<ReadonlyMap<string, Uint8Array>>;
  /** Ids of a user's sessions, up to so many. */
  sessionsOf(userId: string, most: number, context: Context): Promise<string[]>;
}

import type { DescMessage } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";

type Context = Pick<HandlerContext, "signal" | "timeoutMs" | "values">;

/** What tells a state of a document from others. */
export interface DocumentState {
  readonly revision: bigint;
  /** When it came to be; undefined where its message has no such time. */
  readonly updateTime: Date | undefined;
}

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
  /** How a document is now; undefined where it is not there. */
  state(
    wanted: { readonly schema: DescMessage; readonly id: string; readonly of: string },
    context: Context,
  ): Promise<DocumentState | undefined>;
  /** Ids of a user's sessions, up to so many. */
  sessionsOf(userId: string, most: number, context: Context): Promise<string[]>;
}

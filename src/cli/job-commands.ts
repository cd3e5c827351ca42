import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import type { CallOptions } from "@connectrpc/connect";
import type { Command, OptionValues } from "commander";

import type { JobState } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { withExamples } from "./examples.ts";
import { type JobView, stateName } from "./job-view.ts";
import { followJob, type WatchOptions, withWatchOptions } from "./jobs.ts";
import type { Page, PageRequest } from "./lists.ts";
import { showList, withLimit } from "./lists.ts";
import type { Column } from "./output.ts";
import type { Session } from "./session.ts";
import { safe } from "./text.ts";

/** A job as it is shown, of whichever kind. */
type Job<J extends DescMessage> = MessageShape<J> & { readonly state: JobState };

/** Jobs of one kind: what they are called, and how they are asked for, shown, watched and stopped. */
export interface JobKind<J extends DescMessage, E extends DescMessage> {
  /** `backup`, `restore`: how one is called in a sentence. */
  readonly noun: string;
  /** The commands that look after them: `lucid backup`. */
  readonly path: string;
  readonly schema: J;
  readonly eventSchema: E;
  readonly idOf: (job: Job<J>) => string;
  readonly get: (id: string, call: CallOptions) => Promise<Job<J> | undefined>;
  readonly watch: (id: string, afterSequence: bigint, call: CallOptions) => AsyncIterable<MessageShape<E>>;
  readonly cancel: (id: string, call: CallOptions) => Promise<Job<J> | undefined>;
  readonly view: (event: MessageShape<E>) => JobView;
  /** Shows one to people. */
  readonly show: (job: Job<J>) => Promise<void>;
  /** Whether a command that waited for its end shows it then: there is more to see than its events tell. */
  readonly isShownAtEnd?: boolean;
}

/** What all commands do with jobs of one kind. */
export interface JobCommands<J extends DescMessage> {
  /** Tells of a job that the service has just taken: its id alone goes to stdout, for scripts. Or follows it to its end. */
  begun(job: Job<J> | undefined, options: { readonly watch?: boolean | undefined }): Promise<void>;
  /** Adds `show`, `watch` and `cancel`. */
  define(command: Command, texts: { readonly show?: string; readonly cancel: string }): void;
  /** Adds `ls`. */
  defineList(
    command: Command,
    list: {
      readonly columns: readonly Column<MessageShape<J>>[];
      readonly page: (request: PageRequest, filter: OptionValues) => Promise<Page<MessageShape<J>>>;
      /** Adds the options that make the filter. */
      readonly withFilter?: (command: Command) => Command;
      readonly examples?: readonly string[];
      /** What is said where there is nothing. */
      readonly none?: string;
    },
  ): void;
}

export function jobCommands<J extends DescMessage, E extends DescMessage>(
  session: Session,
  kind: JobKind<J, E>,
): JobCommands<J> {
  const { noun, path } = kind;
  const exampleId = "019ab0f2-…";

  const show = async (id: string): Promise<void> => {
    const job = await kind.get(id, session.call());
    if (job === undefined) return;
    await (session.output.json ? session.output.message(kind.schema, job) : kind.show(job));
  };
  const follow = async (id: string, options: WatchOptions, { isBegun = false } = {}): Promise<void> => {
    const job = {
      ...{ noun, id, path, isBegun, view: kind.view },
      watch: (afterSequence: bigint) => kind.watch(id, afterSequence, session.stream()),
      write: (event: MessageShape<E>) => session.output.message(kind.eventSchema, event),
    };
    await followJob(session, job, options);
  };

  return {
    async begun(job, { watch = false }) {
      if (job === undefined) return;
      const id = kind.idOf(job);
      if (session.output.json) await session.output.message(kind.schema, job);
      else if (!watch) {
        await session.output.line(safe(id));
        session.output.note(`It has begun; \`${path} watch ${id}\` shows how far it is.`);
      }
      if (!watch) return;
      await follow(id, {}, { isBegun: true });
      if (kind.isShownAtEnd === true) await show(id);
    },

    define(command, texts) {
      const ofOne = (name: string, description: string) =>
        command.command(name).description(description).argument(`<${noun}>`, `id of the ${noun}`);
      withExamples(ofOne("show", texts.show ?? `Show one ${noun}`).action(show), `${path} show ${exampleId}`);
      withExamples(
        withWatchOptions(ofOne("watch", `Show how far a ${noun} is until it has ended, and end as it did`)).action(
          async (id: string, options: WatchOptions) => follow(id, options),
        ),
        `${path} watch ${exampleId}`,
        `${path} watch ${exampleId} --after 7 --json   # goes on behind event 7`,
      );
      withExamples(
        ofOne("cancel", texts.cancel).action(async (id: string) => {
          const job = await kind.cancel(id, session.call());
          if (job === undefined) return;
          if (session.output.json) await session.output.message(kind.schema, job);
          else session.output.note(`The ${noun} is ${stateName(job.state)}.`);
        }),
        `${path} cancel ${exampleId}`,
      );
    },

    defineList(command, { columns, page, withFilter = (given) => given, examples = [], none }) {
      withExamples(
        withFilter(withLimit(command.command("ls")).description(`List ${noun}s, the newest first`)).action(
          async ({ limit, ...filter }) =>
            showList(session, {
              ...{ schema: kind.schema, limit, columns, none: none ?? `There are no ${noun}s.` },
              page: (request) => page(request, filter),
            }),
        ),
        ...[`${path} ls`, ...examples],
      );
    },
  };
}

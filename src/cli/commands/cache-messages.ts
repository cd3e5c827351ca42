import { type Command, Option } from "commander";

import {
  CacheService,
  PublishMessageResponseSchema,
  type SubscribeResponse,
  SubscribeResponseSchema,
  SubscriptionEventType,
  SubscriptionEventTypeSchema,
} from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { withExamples } from "../examples.ts";
import { mayPass } from "../failure.ts";
import { readBytes } from "../input.ts";
import { reconnection } from "../reconnection.ts";
import type { Session } from "../session.ts";
import { safe } from "../text.ts";
import { count, counted, many, nameOf, readNumber, readSpan } from "../units.ts";

/** `lucid cache publish` and `lucid cache subscribe`. */
export function defineMessages(cache: Command, session: Session): void {
  const client = () => session.client(CacheService);

  withExamples(
    cache
      .command("publish")
      .description("Send a message to whoever listens to a channel")
      .argument("<channel>", "name of the channel")
      .argument("<message>", "the text, @FILE, or - for stdin")
      .action(async (channel: string, given: string) => {
        const message = { case: "raw", value: await readBytes(session, given, "message") } as const;
        const response = await client().publishMessage({ channel, message }, session.call());
        if (session.output.json) return session.output.message(PublishMessageResponseSchema, response);
        session.output.note(`${counted(response.receiverCount, "listener")} got it.`);
      }),
    "lucid cache publish news hello",
  );

  withExamples(
    cache
      .command("subscribe")
      .description("Show what is sent to channels; what was sent while the connection was broken is lost")
      .argument("[channel...]", "names of channels")
      .option("--pattern <pattern>", "all channels that match this; may be given many times", many)
      .addOption(new Option("--for <time>", "end after this time").argParser(readSpan))
      .addOption(new Option("--count <number>", "end after so many messages").argParser(readNumber(1, 1_000_000_000)))
      .action(
        async (channels: readonly string[], options: { pattern?: readonly string[]; for?: number; count?: number }) => {
          const { pattern = [], for: forMs, count: most = Infinity } = options;
          const { signal, isOver } = session.lasting(forMs);
          const request = { channels: [...channels], patterns: [...pattern] };
          let shown = 0;
          let hasHeard = false;
          const tries = reconnection();
          for (;;) {
            try {
              for await (const event of client().subscribe(request, { signal })) {
                hasHeard = true;
                tries.heard();
                await showEvent(session, event);
                if (event.type === SubscriptionEventType.MESSAGE && ++shown >= most) return;
              }
            } catch (error) {
              if (isOver()) return;
              if (signal.aborted || !hasHeard || !mayPass(error)) throw error;
              if (tries.failures === 0) {
                session.output.note("The connection broke; what is sent until it is there again is lost.");
              }
            }
            await tries.wait(signal).catch(() => session.signal.throwIfAborted());
            if (isOver()) return;
          }
        },
      ),
    "lucid cache subscribe news",
    "lucid cache subscribe --pattern 'news:*' --count 1 --json",
  );
}

async function showEvent({ output }: Session, event: SubscribeResponse): Promise<void> {
  if (output.json) return output.message(SubscribeResponseSchema, event);
  const { type, channel, message, missedCount } = event;
  if (type === SubscriptionEventType.MESSAGE) {
    const text = message.case === "text" ? message.value : Buffer.from(message.value ?? []).toString("base64");
    await output.line(`${safe(channel)}  ${safe(text)}`);
  } else if (type === SubscriptionEventType.MISSED) {
    output.note(`${count(missedCount)} messages came too quickly and are lost.`);
  } else if (type !== SubscriptionEventType.HEARTBEAT) {
    output.note(`It is ${nameOf(SubscriptionEventTypeSchema, type)}.`);
  }
}

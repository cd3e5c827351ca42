import { isUtf8 } from "node:buffer";

import type { MessageInitShape } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";

import {
  type CacheService,
  type SubscribeResponseSchema,
  SubscriptionEventType,
} from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import type { RedisSubscriptions, SubscriptionEvent } from "../../stores/redis-subscriptions.ts";
import type { RedisStore } from "../../stores/redis.ts";
import { untilDrained } from "../until-drained.ts";

/** What messages need. */
export interface MessagesOptions {
  readonly redis: RedisStore;
  readonly subscriptions: RedisSubscriptions;
  /** Aborted when the process stops taking calls. */
  readonly draining: AbortSignal;
}

const usualHeartbeatMs = 30_000;

/** The handlers that send and receive messages. */
export function messages({
  redis,
  subscriptions,
  draining,
}: MessagesOptions): Pick<ServiceImpl<typeof CacheService>, "publishMessage" | "subscribe"> {
  return {
    async publishMessage({ channel, message }) {
      const receivers = await redis.client.publish(channel, Buffer.from(message.value ?? ""));
      return { receiverCount: BigInt(receivers) };
    },

    subscribe({ channels, patterns, heartbeatInterval }, { signal }) {
      const heartbeatMs = heartbeatInterval === undefined ? usualHeartbeatMs : durationMs(heartbeatInterval);
      return untilDrained({ signal, draining }, async function* (ending) {
        const events = subscriptions.subscribe({ channels, patterns, heartbeatMs, signal: ending });
        for await (const event of events) yield eventMessage(event);
      });
    },
  };
}

const types = {
  subscribed: SubscriptionEventType.SUBSCRIBED,
  message: SubscriptionEventType.MESSAGE,
  missed: SubscriptionEventType.MISSED,
  reconnected: SubscriptionEventType.RECONNECTED,
  heartbeat: SubscriptionEventType.HEARTBEAT,
} as const;

function eventMessage(event: SubscriptionEvent): MessageInitShape<typeof SubscribeResponseSchema> {
  const type = types[event.type];
  if (event.type === "missed") return { type, missedCount: BigInt(event.count) };
  if (event.type !== "message") return { type };
  const { channel, pattern, message } = event.message;
  return {
    type,
    channel: channel.toString(),
    pattern,
    message: isUtf8(message) ? { case: "text", value: message.toString() } : { case: "raw", value: message },
  };
}

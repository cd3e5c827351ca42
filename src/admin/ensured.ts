import { EnsuredState } from "../../gen/lucid/admin/v1/monitoring_service_pb.ts";
import type { Ensured } from "../schema/collection-keeper.ts";

const states = {
  waiting: EnsuredState.WAITING,
  building: EnsuredState.BUILDING,
  created: EnsuredState.CREATED,
  existing: EnsuredState.EXISTING,
  conflicting: EnsuredState.CONFLICTING,
} as const satisfies Record<Ensured["state"], EnsuredState>;

/** How something stands that a collection must have, as the contracts tell it. */
export function ensuredThing({ name, state, problem = "" }: Ensured) {
  return { name, state: states[state], problem };
}

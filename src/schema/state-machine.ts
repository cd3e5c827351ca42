import type { DescEnum } from "@bufbuild/protobuf";

import { storedNames } from "./stored-field.ts";

/** Which state of an enum may follow which. */
export interface StateMachine {
  /** Stored name of the field that holds the state. */
  readonly field: string;
  /** Stored name of a state. */
  name(state: number): string;
  /** Stored names of the states that a step to this one may start from. */
  before(state: number): readonly string[];
  /** Stored names of the states that nothing leaves. */
  readonly terminal: readonly string[];
}

/** A machine of the steps listed for each state, by its number; a state that lists none is terminal. */
export function stateMachine(
  states: DescEnum,
  steps: Readonly<Record<number, readonly number[]>>,
  field = "status",
): StateMachine {
  const names = new Map(storedNames(states).map(({ name, number }) => [number, name]));
  const name = (state: number): string => {
    const found = names.get(state);
    if (found === undefined) throw new Error(`${states.typeName} has no value ${state}`);
    return found;
  };
  const entries = Object.entries(steps).map(([from, to]) => ({ from: name(Number(from)), to: to.map(name) }));
  const befores = new Map(
    [...names.values()].map((state) => [state, entries.filter(({ to }) => to.includes(state)).map(({ from }) => from)]),
  );
  return {
    field,
    name,
    before: (state) => befores.get(name(state)) ?? [],
    terminal: entries.filter(({ to }) => to.length === 0).map(({ from }) => from),
  };
}

/** How `lucid` ends. Part of its interface: scripts tell by it what happened. */
export const exitCodes = {
  done: { code: 0, meaning: "Done." },
  failure: {
    code: 1,
    meaning:
      "It could not be done: the service or a store is away, time ran out, data is damaged, or a job did not succeed.",
  },
  usage: { code: 2, meaning: "The command was not understood, or the service refused a value in it." },
  refused: {
    code: 3,
    meaning: "The service refused it as things stand: not found, in use, not confirmed, not possible on this server.",
  },
  found: {
    code: 4,
    meaning:
      "It was done, and what it looked at is not as it should be: a store is not healthy, an index differs, a log is not whole.",
  },
  forged: {
    code: 5,
    meaning: "A proof does not hold: what the service, or whoever kept the proof, says is not what was committed to.",
  },
  interrupted: {
    code: 130,
    meaning: "Ctrl-C. What the service has begun goes on, unless the last line says otherwise.",
  },
  unread: { code: 141, meaning: "Whatever read the output has gone, as in `lucid backup ls | head`." },
} as const;

/** The name of an end. */
export type Ending = keyof typeof exitCodes;

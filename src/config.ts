import { readFileSync } from "node:fs";

/** One setting: where it comes from, what it means, and how its text becomes a value. */
interface Setting<T> {
  readonly name: string;
  readonly form: string;
  readonly fallback: string;
  readonly meaning: string;
  /** Throws an Error whose message continues "NAME ". */
  readonly parse: (text: string) => T;
}

function text(name: string, fallback: string, meaning: string): Setting<string> {
  return { name, form: "text", fallback, meaning, parse: (value) => value };
}

function matching(name: string, pattern: RegExp, form: string, fallback: string, meaning: string): Setting<string> {
  const parse = (value: string): string => {
    if (!pattern.test(value)) throw new Error(`must be ${form}`);
    return value;
  };
  return { name, form, fallback, meaning, parse };
}

/** Says nothing of what was given: it may hold a password. */
function uri(name: string, schemes: readonly string[], fallback: string, meaning: string): Setting<string> {
  const known = schemes.map((scheme) => `${scheme}://`);
  const parse = (value: string): string => {
    const scheme = known.find((start) => value.startsWith(start));
    if (scheme === undefined) throw new Error(`must begin with ${known.join(" or ")}`);
    // Several hosts are no URL. What comes behind them is the driver's.
    if (!/^[^/?#\s]/.test(value.slice(scheme.length))) throw new Error("must name a host");
    if (!value.startsWith("mongodb") && !URL.canParse(value)) throw new Error("must be a URL");
    return value;
  };
  return { name, form: known.map((start) => `\`${start}\``).join(", "), fallback, meaning, parse };
}

function database(name: string, fallback: string, meaning: string): Setting<string> {
  const parse = (value: string): string => {
    if (/[/\\. "$*<>:|?\0]/.test(value) || Buffer.byteLength(value) > 63) {
      throw new Error('must be a name of at most 63 bytes without spaces and /\\."$*<>:|?');
    }
    if (["admin", "config", "local"].includes(value)) throw new Error("must be no database of the server's own");
    return value;
  };
  return { name, form: "name of a database", fallback, meaning, parse };
}

function oneOf<const V extends string>(name: string, values: readonly V[], fallback: V, meaning: string): Setting<V> {
  return {
    name,
    form: values.map((value) => `\`${value}\``).join(", "),
    fallback,
    meaning,
    parse: (value) => {
      const found = values.find((candidate) => candidate === value);
      if (found === undefined) throw new Error(`must be one of ${values.join(", ")}`);
      return found;
    },
  };
}

function integer(name: string, fallback: number, [least, most]: readonly [number, number], meaning: string) {
  return {
    name,
    form: `${least} to ${most}`,
    fallback: String(fallback),
    meaning,
    parse: (value: string) => {
      const number = Number(value);
      if (!/^-?\d+$/.test(value) || number < least || number > most) {
        throw new Error(`must be a whole number from ${least} to ${most}`);
      }
      return number;
    },
  } satisfies Setting<number>;
}

/** Every setting of the service. `docs/configuration.md` is made from this table. */
export const settings = {
  grpc: {
    host: text("LUCID_GRPC_HOST", "127.0.0.1", "Address that the gRPC listener binds to."),
    port: integer("LUCID_GRPC_PORT", 50_051, [0, 65_535], "Port of the gRPC listener; 0 takes a free one."),
  },
  http: {
    host: text(
      "LUCID_HTTP_HOST",
      "127.0.0.1",
      "Address that the HTTP listener (Connect, gRPC-Web, JSON, metrics) binds to.",
    ),
    port: integer("LUCID_HTTP_PORT", 8080, [0, 65_535], "Port of the HTTP listener; 0 takes a free one."),
  },
  server: {
    exposure: oneOf(
      "LUCID_EXPOSURE",
      ["loopback", "open"],
      "loopback",
      "`loopback` refuses to start on any other address, since callers are not authenticated; `open` plainly switches that off.",
    ),
    maxMessageBytes: integer(
      "LUCID_MAX_MESSAGE_BYTES",
      16 * 1024 * 1024,
      [1024, 256 * 1024 * 1024],
      "Largest request message in bytes, after decompression.",
    ),
    defaultDeadlineMs: integer(
      "LUCID_DEFAULT_DEADLINE_MS",
      30_000,
      [100, 3_600_000],
      "Deadline in milliseconds of a unary call that brings none.",
    ),
    pageTokenSecret: text(
      "LUCID_PAGE_TOKEN_SECRET",
      "",
      "What page tokens are sealed with; the same on every replica. Empty: lists of the domain share one that is kept in MongoDB, and tokens of other lists end with the process. Secret.",
    ),
    maxConnectionAgeMs: integer(
      "LUCID_MAX_CONNECTION_AGE_MS",
      3_600_000,
      [1000, 86_400_000],
      "Age in milliseconds at which a gRPC connection is asked to close, so that clients spread over replicas.",
    ),
    drainMs: integer(
      "LUCID_DRAIN_MS",
      10_000,
      [0, 600_000],
      "Milliseconds that running calls get to finish after SIGTERM or SIGINT.",
    ),
  },
  mongodb: {
    uri: uri(
      "LUCID_MONGODB_URI",
      ["mongodb", "mongodb+srv"],
      "mongodb://127.0.0.1:27017",
      "Connection string of MongoDB. Secret.",
    ),
    database: database("LUCID_MONGODB_DATABASE", "lucid", "Database of the domain's collections."),
    systemDatabase: database(
      "LUCID_MONGODB_SYSTEM_DATABASE",
      "lucid_system",
      "Database of what the service keeps for itself: jobs and their events, the audit log. Never backed up or restored.",
    ),
  },
  redis: {
    uri: uri("LUCID_REDIS_URI", ["redis", "rediss"], "redis://127.0.0.1:6379", "Redis; `rediss` is TLS. Secret."),
    mode: oneOf("LUCID_REDIS_MODE", ["single", "cluster"], "single", "Whether LUCID_REDIS_URI names a cluster's node."),
  },
  search: {
    uri: uri(
      "LUCID_SEARCH_URI",
      ["http", "https"],
      "http://127.0.0.1:9200",
      "Elasticsearch or OpenSearch, with user and password where needed. Secret.",
    ),
    prefix: matching(
      "LUCID_SEARCH_PREFIX",
      /^[a-z0-9][a-z0-9_-]{0,62}$/,
      "1 to 63 lower-case letters, digits, `_` and `-`",
      "lucid-",
      "What the names of this deployment's search indices begin with. Two that share a server need different ones.",
    ),
    sync: oneOf(
      "LUCID_SEARCH_SYNC",
      ["on", "off"],
      "on",
      "Whether this process may keep search indices equal to their collections; one of those that may does, index by index.",
    ),
    lagWarningSeconds: integer(
      "LUCID_SEARCH_LAG_WARNING_SECONDS",
      60,
      [1, 86_400],
      "Seconds that an index may be behind its collection before the health of search is degraded.",
    ),
    compareEveryHours: integer(
      "LUCID_SEARCH_COMPARE_EVERY_HOURS",
      24,
      [0, 8760],
      "Hours between two comparisons of each index with its collection, which mend what differs. 0: only when one is asked for.",
    ),
  },
  backup: {
    dir: text("LUCID_BACKUP_DIR", "", "Folder of the backup repository. Empty: backups are refused."),
    keyFile: text(
      "LUCID_BACKUP_KEY_FILE",
      "",
      "File whose content unlocks the repository's key, at least 32 bytes. A repository that is made without one is not encrypted.",
    ),
    oldKeyFile: text(
      "LUCID_BACKUP_OLD_KEY_FILE",
      "",
      "The key file of before. A repository that it unlocks takes that of LUCID_BACKUP_KEY_FILE in its place when the service starts.",
    ),
    parallelism: integer(
      "LUCID_BACKUP_PARALLELISM",
      4,
      [1, 64],
      "Readers of MongoDB ranges and writers of restores at once.",
    ),
  },
  volumes: {
    dir: text(
      "LUCID_VOLUME_DIR",
      "",
      "Folder that volumes lie in, each a folder of its own; on Linux only. Several replicas may share it. Empty: volumes are refused.",
    ),
    measureMinutes: integer(
      "LUCID_VOLUME_MEASURE_MINUTES",
      5,
      [0, 1440],
      "Minutes between two measures of each volume, of which its history is made. 0: only when one is asked for.",
    ),
  },
  jobs: {
    leaseMs: integer(
      "LUCID_JOB_LEASE_MS",
      10_000,
      [1000, 300_000],
      "Milliseconds after which a job of a dead replica is taken over or ended.",
    ),
    concurrency: integer("LUCID_JOB_CONCURRENCY", 2, [1, 32], "Jobs that one process runs at once."),
  },
  watches: {
    bufferedChanges: integer(
      "LUCID_WATCH_BUFFERED_CHANGES",
      10_000,
      [10, 1_000_000],
      "Latest changes of a watched collection that a process keeps for all watches of it together. A watch that falls further behind is ended, and goes on with its token.",
    ),
    bufferedBytes: integer(
      "LUCID_WATCH_BUFFERED_BYTES",
      32 * 1024 * 1024,
      [64 * 1024, 1024 * 1024 * 1024],
      "Most bytes that these changes of one collection take.",
    ),
  },
  users: {
    lockAfterFailures: integer(
      "LUCID_LOCK_AFTER_FAILURES",
      5,
      [1, 1000],
      "Failed logins in a row that lock an account.",
    ),
    lockMinutes: integer("LUCID_LOCK_MINUTES", 15, [1, 525_600], "Minutes that an account stays locked."),
  },
  audit: {
    takeoverMs: integer(
      "LUCID_AUDIT_TAKEOVER_MS",
      30_000,
      [100, 3_600_000],
      "Milliseconds after which any replica moves an audit record to the log that waits beside a change, since the process that stored it died.",
    ),
  },
  lifecycle: {
    purgeAfterDays: integer(
      "LUCID_PURGE_AFTER_DAYS",
      30,
      [1, 3650],
      "Days after which what was deleted is removed for good and cannot be undeleted any more.",
    ),
    purgeEveryHours: integer(
      "LUCID_PURGE_EVERY_HOURS",
      24,
      [0, 8760],
      "Hours between two such removals; one replica does each. 0: only when it is asked for.",
    ),
  },
  log: {
    level: oneOf(
      "LUCID_LOG_LEVEL",
      ["debug", "info", "warn", "error", "silent"],
      "info",
      "Least severe level that is logged, JSON to stdout.",
    ),
  },
} as const;

type Values<T> = { readonly [K in keyof T]: T[K] extends Setting<infer V> ? V : Values<T[K]> };

/** The settings of one process. */
export type Config = Values<typeof settings>;

/** What keeps the service from starting and the operator can put right: a sentence says it all, without a stack. */
export class BadSettings extends Error {
  override readonly name = "BadSettings";
}

/**
 * Reads the settings from `env`. A setting `NAME` may come from a file named by `NAME_FILE` instead, so that secrets need not
 * stand in the environment. Throws one `BadSettings` that names everything that is wrong.
 */
export function readConfig(env: Readonly<Record<string, string | undefined>>): Config {
  const wrong: string[] = [];
  const valueOf = (setting: Setting<unknown>): unknown => {
    try {
      const file = setting.name.endsWith("_FILE") ? undefined : env[`${setting.name}_FILE`];
      const given = file === undefined ? env[setting.name] : textOf(file);
      return setting.parse(given === undefined || given === "" ? setting.fallback : given);
    } catch (error) {
      wrong.push(`${setting.name} ${error instanceof Error ? error.message : String(error)}`);
      return undefined;
    }
  };
  const groups = Object.entries(settings).map(([group, members]) => [
    group,
    Object.fromEntries(Object.entries(members).map(([key, setting]) => [key, valueOf(setting)])),
  ]);
  // The entries were made from the table that the type is made from.
  const config = Object.fromEntries(groups) as Config;
  if (wrong.length === 0 && config.backup.oldKeyFile !== "" && config.backup.keyFile === "") {
    const { keyFile, oldKeyFile } = settings.backup;
    wrong.push(`${oldKeyFile.name} needs ${keyFile.name}, which takes its place`);
  }
  if (wrong.length === 0 && config.mongodb.database.toLowerCase() === config.mongodb.systemDatabase.toLowerCase()) {
    const { database: ofDomain, systemDatabase } = settings.mongodb;
    wrong.push(`${systemDatabase.name} must be another database than ${ofDomain.name}: backups leave it out`);
  }
  if (wrong.length === 0 && config.server.exposure === "loopback") {
    for (const { host, name } of [
      { host: config.grpc.host, name: settings.grpc.host.name },
      { host: config.http.host, name: settings.http.host.name },
    ]) {
      if (!isLoopback(host))
        wrong.push(`${name} is not a loopback address; set LUCID_EXPOSURE=open to serve unauthenticated callers`);
    }
  }
  if (wrong.length > 0) throw new BadSettings(`Bad settings: ${wrong.join("; ")}`);
  return config;
}

function textOf(file: string): string {
  try {
    return readFileSync(file, "utf8").trimEnd();
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new Error(`cannot be read from its file: ${why}`, { cause: error });
  }
}

/** Names in `env` that look like settings and are none: likely misspelt. Not an error, since container platforms add names. */
export function unknownSettings(env: Readonly<Record<string, string | undefined>>): string[] {
  const known = new Set(Object.values(settings).flatMap((group) => Object.values(group).map(({ name }) => name)));
  known.add("LUCID_ADDRESS"); // of the command line, which may well run in the same place
  return Object.keys(env).filter(
    (name) => name.startsWith("LUCID_") && !known.has(name) && !known.has(name.replace(/_FILE$/, "")),
  );
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127(\.\d{1,3}){3}$/.test(host);
}

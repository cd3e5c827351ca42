import { createHash } from "node:crypto";

import { Binary, Long, ObjectId, type Document } from "bson";

import { random, type Random } from "./random.ts";
import { tronAddress } from "./tron.ts";

/** Marks what a seed wrote, in every document's `created_by`. */
export const AUTHOR = "seed";

// A fixed moment: the same seed gives the same documents at any time.
const NOW = Date.UTC(2026, 0, 1);
const DAY_MS = 86_400_000;
const CHUNK_BYTES = 8 * 1024 * 1024;
const TRANSACTIONS_A_BLOCK = 5;

/** Makes every document of a collection, in order, one at a time. */
export interface Collection {
  readonly name: string;
  readonly count: number;
  readonly document: (index: number) => Document;
}

/** Collections of the domain that hold `total` documents together, all made from the seed number. */
export function collections(seed: number, total: number): readonly Collection[] {
  const plan = planFor(seed, total);
  const made: Readonly<Record<string, [count: number, make: (index: number) => Document]>> = {
    users: [plan.users, (index) => user(plan, index)],
    authentication: [plan.users, (index) => authentication(plan, index)],
    wallets: [plan.wallets, (index) => wallet(plan, index)],
    sessions: [plan.sessions, (index) => session(plan, index)],
    manifests: [plan.manifests, (index) => manifest(plan, index)],
    blocks: [plan.blocks, (index) => block(plan, index)],
    transactions: [plan.transactions, (index) => transaction(plan, index)],
    trust_policies: [plan.policies, (index) => trustPolicy(plan, index)],
    audit_logs: [plan.auditLogs, (index) => auditLog(plan, index)],
    chunks: [plan.chunks, (index) => chunk(plan, index)],
  };
  return Object.entries(made).map(([name, [count, make]]) => ({
    name,
    count,
    document: (index) => entity(plan, name, index, make(index)),
  }));
}

/** How many there are of each, and the seed. Numbers refer to each other by position. */
export interface Plan {
  readonly seed: number;
  readonly users: number;
  readonly wallets: number;
  readonly sessions: number;
  readonly manifests: number;
  readonly blocks: number;
  readonly transactions: number;
  readonly policies: number;
  readonly auditLogs: number;
  readonly chunks: number;
}

export function planFor(seed: number, total: number): Plan {
  const share = (part: number) => Math.floor(total * part);
  const counts = {
    users: share(0.1), // and as many secrets
    wallets: share(0.06),
    sessions: share(0.12),
    manifests: share(0.06),
    blocks: share(0.03),
    transactions: share(0.15),
    policies: share(0.01),
    auditLogs: share(0.12),
  };
  const others = Object.values(counts).reduce((sum, count) => sum + count, counts.users);
  return { seed, ...counts, chunks: total - others };
}

/** What every entity carries. */
function entity({ seed }: Plan, collection: string, index: number, fields: Document): Document {
  const chance = random(seed, collection, index, "entity");
  const createdAt: unknown = fields["created_at"];
  const created = createdAt instanceof Date ? createdAt.getTime() : NOW - chance.whole(30, 720) * DAY_MS;
  return {
    _id: new ObjectId(chance.bytes(12)),
    ...fields,
    created_at: new Date(created),
    updated_at: new Date(created + chance.whole(0, 20 * DAY_MS)),
    created_by: AUTHOR,
    metadata: { source: chance.pick(["web", "api", "import"]), batch: chance.whole(1, 50) },
    revision: Long.fromNumber(chance.whole(1, 9)),
  };
}

/** Gives an id in the form of a version 7 UUID, which starts with its time. */
export function idOf(seed: number, kind: string, index: number): string {
  const chance = random(seed, kind, index, "id");
  const time = (NOW - chance.whole(30, 720) * DAY_MS + chance.whole(0, DAY_MS)).toString(16).padStart(12, "0");
  const rest = chance.hex(18);
  const variant = chance.pick(["8", "9", "a", "b"]);
  return `${time.slice(0, 8)}-${time.slice(8)}-7${rest.slice(0, 3)}-${variant}${rest.slice(3, 6)}-${rest.slice(6)}`;
}

const FIRST = [
  "ada",
  "grace",
  "alan",
  "edsger",
  "barbara",
  "donald",
  "radia",
  "leslie",
  "tony",
  "frances",
  "ken",
  "jean",
] as const;
const LAST = [
  "lovelace",
  "hopper",
  "turing",
  "liskov",
  "knuth",
  "perlman",
  "lamport",
  "hoare",
  "allen",
  "bartik",
] as const;
const CITIES = ["Berlin", "Nairobi", "Lisbon", "Osaka", "Montréal", "São Paulo", "Tallinn", "Kraków"] as const;
const LANGUAGES = ["en", "de", "fr", "ja", "pt"] as const;
const ZONES = ["UTC", "Europe/Berlin", "Africa/Nairobi", "Asia/Tokyo", "America/Toronto"] as const;
const WORDS = ["review", "deploy", "support", "training", "audit", "migration", "incident", "release"] as const;

function user({ seed }: Plan, index: number): Document {
  const chance = random(seed, "user", index);
  const [first, last] = [chance.pick(FIRST), chance.pick(LAST)];
  const isOperator = chance.chance(0.15);
  const capital = (word: string) => word.charAt(0).toUpperCase() + word.slice(1);
  return {
    user_id: idOf(seed, "user", index),
    email: `${first}.${last}.${seed}.${index}@example.com`,
    ...(chance.chance(0.8) && { username: `${first}_${last}_${seed}_${index}` }),
    tron_address: tronAddress(chance.bytes(20)),
    role: isOperator ? "NODE_OPERATOR" : chance.pick(["USER", "USER", "USER", "USER", "ADMIN"]),
    status: chance.pick(["ACTIVE", "ACTIVE", "ACTIVE", "ACTIVE", "INACTIVE", "SUSPENDED", "PENDING_VERIFICATION"]),
    profile: {
      display_name: `${capital(first)} ${capital(last)}`,
      ...(chance.chance(0.5) && { bio: `Works on ${chance.pick(WORDS)} and ${chance.pick(WORDS)}.` }),
      location: chance.pick(CITIES),
      social_links: chance.chance(0.3) ? { code: `https://code.example.com/${first}-${index}` } : {},
    },
    preferences: {
      language: chance.pick(LANGUAGES),
      timezone: chance.pick(ZONES),
      email_notifications: chance.chance(0.8),
      session_notifications: chance.chance(0.7),
      payout_notifications: chance.chance(0.6),
      theme: chance.pick(["dark", "light"]),
      auto_anchor_sessions: chance.chance(0.9),
    },
    ...(chance.chance(0.2) && {
      hardware_wallet: {
        type: chance.pick(["LEDGER", "TREZOR", "KEEPKEY"]),
        firmware_version: `2.${chance.whole(0, 9)}.0`,
      },
    }),
    ...(chance.chance(0.9) && { last_login: timeBefore(chance, 30) }),
    email_verified: chance.chance(0.85),
    tron_verified: chance.chance(0.6),
    is_node_operator: isOperator,
    ...(isOperator && { node_count: chance.whole(1, 12), total_poot_score: Math.round(chance.fraction() * 1e6) / 1e3 }),
    total_sessions: Long.fromNumber(chance.whole(0, 400)),
    total_chunks_uploaded: Long.fromNumber(chance.whole(0, 40_000)),
    total_storage_used: Long.fromNumber(chance.whole(0, 40_000) * CHUNK_BYTES),
    failed_login_attempts: chance.chance(0.1) ? chance.whole(1, 4) : 0,
  };
}

/** Secrets have a collection of their own. These are random bytes of the right length and open nothing. */
function authentication({ seed }: Plan, index: number): Document {
  const chance = random(seed, "authentication", index);
  return {
    user_id: idOf(seed, "user", index),
    password_hash: new Binary(chance.bytes(32)),
    salt: new Binary(chance.bytes(16)),
  };
}

function wallet(plan: Plan, index: number): Document {
  const chance = random(plan.seed, "wallet", index);
  return {
    wallet_id: idOf(plan.seed, "wallet", index),
    user_id: idOf(plan.seed, "user", chance.whole(0, Math.max(0, plan.users - 1))),
    wallet_type: chance.pick(["SOFTWARE", "SOFTWARE", "HARDWARE", "PAPER", "MULTISIG"]),
    tron_address: tronAddress(chance.bytes(20)),
    status: chance.pick(["ACTIVE", "ACTIVE", "ACTIVE", "INACTIVE", "LOCKED"]),
    nickname: `${chance.pick(["Main", "Savings", "Cold", "Shared"])} ${index}`,
    public_key: chance.hex(66),
    is_primary: false,
    is_verified: chance.chance(0.7),
    transaction_count: Long.fromNumber(chance.whole(0, 5000)),
    tags: chance.chance(0.4) ? [chance.pick(["daily", "payout", "archive"])] : [],
  };
}

/** Chunks are dealt to sessions in turn, so each session knows how many are its own. */
function chunksOf(plan: Plan, owner: number): number {
  if (plan.sessions === 0) return 0;
  return Math.floor(plan.chunks / plan.sessions) + (owner < plan.chunks % plan.sessions ? 1 : 0);
}

function chunkHash(plan: Plan, owner: number, position: number): string {
  return random(plan.seed, "chunk", owner, position, "hash").hex(64);
}

function chunkBytes(plan: Plan, owner: number, position: number): number {
  return CHUNK_BYTES - random(plan.seed, "chunk", owner, position, "size").whole(0, 1000);
}

function session(plan: Plan, index: number): Document {
  const { seed } = plan;
  const chance = random(seed, "session", index);
  const chunks = chunksOf(plan, index);
  const started = timeBefore(chance, 600);
  const seconds = chance.whole(60, 14_400);
  const recorded = chunks * CHUNK_BYTES;
  const isCompleted = chance.chance(0.75);
  return {
    session_id: idOf(seed, "session", index),
    user_id: idOf(seed, "user", chance.whole(0, Math.max(0, plan.users - 1))),
    session_name: `${chance.pick(WORDS)} ${chance.pick(CITIES)} ${index}`,
    description: `Recording of a ${chance.pick(WORDS)} session`,
    status: isCompleted ? "COMPLETED" : chance.pick(["RECORDING", "PROCESSING", "ENCRYPTING", "FAILED", "CANCELLED"]),
    rdp_server_id: `rdp-${chance.whole(1, 40)}`,
    rdp_port: 3389,
    started_at: started,
    ...(isCompleted && {
      ended_at: new Date(started.getTime() + seconds * 1000),
      duration_seconds: Long.fromNumber(seconds),
      merkle_tree: {
        root_hash: merkleRoot(plan, index),
        tree_height: Math.ceil(Math.log2(Math.max(1, chunks))),
        leaf_count: Long.fromNumber(chunks),
        built_at: new Date(started.getTime() + (seconds + 60) * 1000),
      },
    }),
    recorded_size_bytes: Long.fromNumber(recorded),
    compressed_size_bytes: Long.fromNumber(Math.floor(recorded * (0.3 + 0.4 * chance.fraction()))),
    max_size_bytes: Long.fromNumber(107_374_182_400),
    total_chunks: Long.fromNumber(chunks),
    chunks_uploaded: Long.fromNumber(chunks),
    chunks_processed: Long.fromNumber(chunks),
    chunks_encrypted: Long.fromNumber(chunks),
    total_size_bytes: Long.fromNumber(
      Array.from({ length: chunks }, (_, at) => chunkBytes(plan, index, at)).reduce((sum, bytes) => sum + bytes, 0),
    ),
    retry_count: chance.chance(0.05) ? 1 : 0,
    storage_provider: "local",
    created_at: started,
  };
}

function merkleRoot(plan: Plan, owner: number): string {
  return random(plan.seed, "session", owner, "merkle root").hex(64);
}

function chunk(plan: Plan, index: number): Document {
  const [owner, position] = [index % plan.sessions, Math.floor(index / plan.sessions)];
  const chance = random(plan.seed, "chunk", index);
  return {
    chunk_id: idOf(plan.seed, "chunk", index),
    session_id: idOf(plan.seed, "session", owner),
    chunk_index: Long.fromNumber(position),
    size_bytes: Long.fromNumber(chunkBytes(plan, owner, position)),
    hash: chunkHash(plan, owner, position),
    encrypted_hash: chance.hex(64),
    status: "STORED",
    storage_path: `/chunks/${owner}/${position}`,
    compression_ratio: 1 + Math.round(chance.fraction() * 300) / 100,
    encryption_algorithm: "AES-256-GCM",
  };
}

function manifest(plan: Plan, index: number): Document {
  const chance = random(plan.seed, "manifest", index);
  const chunks = Math.max(1, chunksOf(plan, index));
  const isAnchored = chance.chance(0.8);
  return {
    manifest_id: idOf(plan.seed, "manifest", index),
    session_id: idOf(plan.seed, "session", index),
    merkle_root: merkleRoot(plan, index),
    chunk_count: Long.fromNumber(chunks),
    total_size: Long.fromNumber(chunks * CHUNK_BYTES),
    blockchain_anchored: isAnchored,
    ...(isAnchored &&
      plan.blocks > 0 && { blockchain_block_height: Long.fromNumber(chance.whole(0, plan.blocks - 1)) }),
    validation_status: chance.pick(["VALID", "VALID", "VALID", "PENDING", "INVALID"]),
    validation_errors: [],
  };
}

function blockHash(seed: number, height: number): string {
  return height < 0 ? "0".repeat(64) : random(seed, "block", height, "hash").hex(64);
}

function block(plan: Plan, height: number): Document {
  const { seed } = plan;
  const chance = random(seed, "block", height);
  const ids = Array.from({ length: TRANSACTIONS_A_BLOCK }, (_, offset) => height * TRANSACTIONS_A_BLOCK + offset)
    .filter((index) => index < plan.transactions)
    .map((index) => transactionId(seed, index));
  // Blocks follow each other at ten minutes, the last one just before the fixed moment.
  const timestamp = new Date(NOW - (plan.blocks - height) * 600_000);
  const isLast = height === plan.blocks - 1;
  return {
    block_id: blockHash(seed, height),
    height: Long.fromNumber(height),
    version: 1,
    previous_hash: blockHash(seed, height - 1),
    ...(!isLast && { next_block_hash: blockHash(seed, height + 1) }),
    merkle_root: createHash("sha256").update(ids.join("")).digest("hex"),
    timestamp,
    nonce: Long.fromNumber(chance.whole(0, 2 ** 32)),
    status: isLast ? "CONFIRMED" : "FINALIZED",
    transactions: ids,
    transaction_count: ids.length,
    session_anchors: [],
    session_anchor_count: 0,
    consensus_info: {
      algorithm: "POOT",
      validator_count: 21,
      vote_count: chance.whole(15, 21),
      consensus_reached: true,
      consensus_timestamp: timestamp,
      poot_scores: { node_1: chance.fraction(), node_2: chance.fraction() },
    },
    size_bytes: Long.fromNumber(chance.whole(500, 90_000)),
    confirmations: Long.fromNumber(plan.blocks - 1 - height),
    finalized: !isLast,
    raw_header: new Binary(chance.bytes(80)),
    created_at: timestamp,
  };
}

function transactionId(seed: number, index: number): string {
  return random(seed, "transaction", index, "id").hex(64);
}

function transaction(plan: Plan, index: number): Document {
  const { seed } = plan;
  const chance = random(seed, "transaction", index);
  const height = Math.floor(index / TRANSACTIONS_A_BLOCK);
  const isInBlock = height < plan.blocks;
  const submitted = new Date(NOW - (plan.blocks - height) * 600_000 - chance.whole(1000, 500_000));
  const anchored = chance.whole(0, Math.max(0, plan.sessions - 1));
  return {
    transaction_id: transactionId(seed, index),
    transaction_type: "SESSION_ANCHOR",
    from_address: `node-${chance.whole(1, 200)}`,
    to_address: "lucid-anchors",
    session_anchor: {
      session_id: idOf(seed, "session", anchored),
      merkle_root: merkleRoot(plan, anchored),
      chunk_count: Long.fromNumber(chunksOf(plan, anchored)),
      manifest_hash: chance.hex(64),
    },
    status: isInBlock ? "FINALIZED" : "IN_MEMPOOL",
    ...(isInBlock && {
      block_id: blockHash(seed, height),
      block_height: Long.fromNumber(height),
      transaction_index: index % TRANSACTIONS_A_BLOCK,
    }),
    size_bytes: Long.fromNumber(chance.whole(200, 4000)),
    submitted_at: submitted,
    confirmations: Long.fromNumber(isInBlock ? plan.blocks - 1 - height : 0),
    signature: chance.hex(128),
    raw_transaction: new Binary(chance.bytes(chance.whole(60, 200))),
    created_at: submitted,
  };
}

function trustPolicy(plan: Plan, index: number): Document {
  const { seed } = plan;
  const chance = random(seed, "policy", index);
  return {
    policy_id: idOf(seed, "policy", index),
    policy_name: `${chance.pick(["Default", "Strict", "Regional", "Partner"])} policy ${index}`,
    policy_type: chance.pick(["USER_TRUST", "NODE_TRUST", "SESSION_POLICY", "CONTENT_POLICY", "NETWORK_POLICY"]),
    trust_level: chance.pick(["LOW", "MEDIUM", "HIGH", "VERIFIED"]),
    status: chance.pick(["ACTIVE", "ACTIVE", "DRAFT", "INACTIVE"]),
    version: Long.fromNumber(1),
    rules: [
      {
        rule_id: "rule-1",
        rule_type: "threshold",
        condition: { expression: `subject.attributes.trust_score < ${chance.whole(10, 90)}` },
        action: "DENY",
        priority: 1,
        enabled: true,
      },
    ],
    enforcement_level: chance.pick(["STRICT", "MODERATE", "LENIENT"]),
    auto_remediation: chance.chance(0.3),
    applications_count: Long.fromNumber(chance.whole(0, 9000)),
    violations_count: Long.fromNumber(chance.whole(0, 90)),
    owner_id: idOf(seed, "user", chance.whole(0, Math.max(0, plan.users - 1))),
    is_system_policy: chance.chance(0.1),
    tags: [chance.pick(["baseline", "europe", "trial"])],
  };
}

function auditLog(plan: Plan, index: number): Document {
  const { seed } = plan;
  const chance = random(seed, "audit", index);
  const actor = idOf(seed, "user", chance.whole(0, Math.max(0, plan.users - 1)));
  const timestamp = timeBefore(chance, 90);
  return {
    audit_id: idOf(seed, "audit", index),
    timestamp,
    actor: { id: actor, role: "USER", source_address: `192.0.2.${chance.whole(1, 254)}` },
    rpc: chance.pick(["lucid.repository.v1.UserService/UpdateUser", "lucid.repository.v1.UserService/RecordLogin"]),
    resource: { type: "user", name: actor },
    action: chance.pick(["UPDATE", "LOGIN"]),
    outcome: chance.pick(["OK", "OK", "OK", "OK", "ABORTED", "INVALID_ARGUMENT"]),
    request_id: idOf(seed, "request", index),
    created_at: timestamp,
  };
}

function timeBefore(chance: Random, days: number): Date {
  return new Date(NOW - chance.whole(1, days) * DAY_MS + chance.whole(0, DAY_MS - 1));
}

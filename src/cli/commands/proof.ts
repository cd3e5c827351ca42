import { type DescMessage, fromJson, type JsonObject, type MessageShape } from "@bufbuild/protobuf";
import { type Command, InvalidArgumentError } from "commander";

import {
  AuditLogService,
  GetAuditConsistencyProofResponseSchema,
  GetAuditInclusionProofResponseSchema,
  GetAuditTreeHeadResponseSchema,
} from "../../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import {
  GetConsistencyProofResponseSchema,
  GetInclusionMultiProofResponseSchema,
  GetInclusionProofResponseSchema,
  ManifestService,
} from "../../../gen/lucid/repository/v1/manifest_service_pb.ts";
import { withExamples } from "../examples.ts";
import { Failure, infoOf } from "../failure.ts";
import { largestHead, readTreeHead, rememberHead, shownHead, type TreeHead } from "../heads.ts";
import { readDocument } from "../input.ts";
import type { Fact } from "../output.ts";
import {
  type AskedHead,
  faultOfChunk,
  faultOfChunks,
  faultOfGrowth,
  faultOfLog,
  faultOfRecord,
} from "../proof-checks.ts";
import type { Session } from "../session.ts";
import { count, counted, nothing, readNumber, time } from "../units.ts";

const mostChunks = 2 ** 31 - 1;

/** `lucid proof …`: nothing that the service says of a proof is believed; each is checked here. */
export function define(proof: Command, session: Session): void {
  withExamples(
    proof
      .command("chunk")
      .description("Prove that a chunk is one of those that a manifest commits to")
      .argument("<manifest>", "id of the manifest")
      .argument("<index>", "place of the chunk, from 0", readNumber(0, mostChunks))
      .option("--hash <hash>", "hash that the chunk must have: that of the one you hold", readHash)
      .option("--head <size:root>", "number of chunks and root of the manifest, as you kept them", readHead)
      .action(async (manifestId: string, index: number, options: { hash?: string; head?: TreeHead }) => {
        const client = session.client(ManifestService);
        const chunkIndex = BigInt(index);
        const response = await client.getInclusionProof({ manifestId, chunkIndex }, session.call());
        await tellChunk(session, response, { ...options, index: chunkIndex });
      }),
    "lucid proof chunk 019ab0f2-… 17 --head 5000:9f2c…",
    "lucid proof chunk 019ab0f2-… 17 --json > proof.json",
  );

  withExamples(
    proof
      .command("chunks")
      .description("Prove several chunks of a manifest at once, by fewer hashes than a proof of each has")
      .argument("<manifest>", "id of the manifest")
      .argument("<index...>", "places of the chunks, from 0, at most 1000", readPlaces)
      .option("--head <size:root>", "number of chunks and root of the manifest, as you kept them", readHead)
      .action(async (manifestId: string, places: readonly number[], { head }: { head?: TreeHead }) => {
        const indexes = [...new Set(places)].map(BigInt);
        const request = { manifestId, chunkIndexes: indexes };
        const response = await session.client(ManifestService).getInclusionMultiProof(request, session.call());
        await tellChunks(session, response, { indexes, head });
      }),
    "lucid proof chunks 019ab0f2-… 0 17 4999 --head 5000:9f2c…",
  );

  withExamples(
    proof
      .command("growth")
      .description("Prove that the first chunks of a manifest are still those of a smaller tree")
      .argument("<manifest>", "id of the manifest")
      .argument("<first>", "the smaller tree: its SIZE, or SIZE:ROOT with the root that you kept", readAsked)
      .option("--head <size:root>", "the larger tree; all chunks of the manifest where not given", readHead)
      .action(async (manifestId: string, first: AskedHead, { head }: { head?: TreeHead }) => {
        const request = { manifestId, firstSize: first.treeSize, secondSize: head?.treeSize ?? 0n };
        const response = await session.client(ManifestService).getConsistencyProof(request, session.call());
        await tellGrowth(session, response, { first, head });
      }),
    "lucid proof growth 019ab0f2-… 1000:9f2c…",
  );

  withExamples(
    proof
      .command("record")
      .description("Prove that a record is in the audit log, as it was written")
      .argument("<record>", "id of the record")
      .option("--head <size:root>", "head of the tree that it must be in: one that you kept", readHead)
      .option("--heads <file>", "the largest head that this file remembers, in the place of --head")
      .action(async (auditId: string, options: { head?: TreeHead; heads?: string }) => {
        const head = options.head ?? (options.heads === undefined ? undefined : await rememberedHead(options.heads));
        const request = { auditId, treeSize: head?.treeSize ?? 0n };
        const response = await session.client(AuditLogService).getAuditInclusionProof(request, session.call());
        await tellRecord(session, response, { auditId, head });
      }),
    "lucid proof record 019ab0f2-… --heads /elsewhere/audit-heads",
  );

  withExamples(
    proof
      .command("log")
      .description("Prove that the audit log has only grown since the last time, and remember its head for the next")
      .requiredOption("--heads <file>", "file that remembers heads, one a line; keep it where the service cannot write")
      .action(async ({ heads }: { heads: string }) => proveLog(session, heads)),
    "lucid proof log --heads /elsewhere/audit-heads",
  );

  withExamples(
    proof
      .command("check")
      .description(
        "Check a proof that was kept: what a command here printed with --json, or what the rpc returned; calls nobody",
      )
      .argument("<proof>", "the proof as JSON, @FILE, or - for standard input")
      .option("--hash <hash>", "hash that the chunk must have", readHash)
      .option("--first <size:root>", "the smaller tree of two: one that you kept", readHead)
      .option("--head <size:root>", "the tree that it leads to, of two the larger one", readHead)
      .action(async (given: string, options: Trusted) => check(session, given, options)),
    "lucid proof check @proof.json --head 5000:9f2c…",
    "grpcurl … lucid.repository.v1.AuditLogService/GetAuditInclusionProof | lucid proof check -",
  );
}

/** What whoever checks a proof has from elsewhere. */
interface Trusted {
  readonly hash?: string;
  readonly first?: TreeHead;
  readonly head?: TreeHead;
}

/** Tells proofs apart by what only one kind has. */
async function check(session: Session, given: string, trusted: Trusted): Promise<void> {
  const json = await readDocument(session, given, "proof");
  const read = <D extends DescMessage>(schema: D): MessageShape<D> => messageOf(schema, json);
  if ("chunkHashes" in json) return tellChunks(session, read(GetInclusionMultiProofResponseSchema), trusted);
  if ("chunkHash" in json) return tellChunk(session, read(GetInclusionProofResponseSchema), trusted);
  if ("firstRoot" in json) return tellGrowth(session, read(GetConsistencyProofResponseSchema), trusted);
  if ("record" in json) return tellRecord(session, read(GetAuditInclusionProofResponseSchema), trusted);
  if ("first" in json) return tellLog(session, read(GetAuditConsistencyProofResponseSchema), trusted);
  throw new Failure("usage", "proof: it is none that the service gives");
}

function messageOf<D extends DescMessage>(schema: D, json: JsonObject): MessageShape<D> {
  try {
    return fromJson(schema, json, { ignoreUnknownFields: true });
  } catch (error) {
    throw new Failure("usage", `proof: ${error instanceof Error ? error.message : String(error)}`);
  }
}

async function rememberedHead(file: string): Promise<TreeHead> {
  const head = await largestHead(file);
  if (head !== undefined) return head;
  throw new Failure("usage", `--heads: ${file} remembers no head yet`, "`lucid proof log` puts the first one there.");
}

async function proveLog(session: Session, file: string): Promise<void> {
  const client = session.client(AuditLogService);
  const head = await largestHead(file);
  if (head === undefined) {
    const response = await client.getAuditTreeHead({}, session.call());
    const { treeHead } = response;
    if (session.output.json) await session.output.message(GetAuditTreeHeadResponseSchema, response);
    if (treeHead === undefined || treeHead.treeSize === 0n) {
      session.output.note("The audit log is empty; there is nothing to remember.");
      return;
    }
    await rememberHead(file, treeHead);
    if (!session.output.json) await session.output.line(`Head: ${shownHead(treeHead)}`);
    session.output.note("It is remembered; the next run proves that the log has only grown since.");
    return;
  }
  const response = await client
    .getAuditConsistencyProof({ firstSize: head.treeSize }, session.call())
    .catch((error: unknown) => {
      const info = infoOf(error);
      if (info?.reason !== "AUDIT_TREE_OUT_OF_RANGE") throw error;
      const left = info.metadata["tree_size"] ?? "fewer";
      throw new Failure("forged", `The audit log had ${head.treeSize} records, and has ${left}`);
    });
  await tellLog(session, response, { first: head });
  if (response.second !== undefined && response.second.treeSize > head.treeSize) {
    await rememberHead(file, response.second);
  }
}

// ---------------------------------------------------------------- what is told of proofs

const own = "as the service has it now";
const untoldTree = `The tree is ${own}; give one that you kept with --head.`;
const untoldFirst = `The smaller tree is ${own}; give one that you kept, as SIZE:ROOT.`;

async function tellChunk(
  session: Session,
  response: MessageShape<typeof GetInclusionProofResponseSchema>,
  trusted: Parameters<typeof faultOfChunk>[1],
): Promise<void> {
  const { proof, chunkHash, merkleRoot } = response;
  await tell(session, GetInclusionProofResponseSchema, response, {
    facts: [
      ["chunk", count(proof?.leafIndex ?? 0n)],
      ["of", counted(proof?.treeSize ?? 0n, "chunk")],
      ["hash", chunkHash],
      ["root", merkleRoot],
    ],
    fault: faultOfChunk(response, trusted),
    holds: "The proof holds: the tree of this size and root has this chunk in this place.",
    untold: trusted.head === undefined ? untoldTree : undefined,
  });
}

async function tellChunks(
  session: Session,
  response: MessageShape<typeof GetInclusionMultiProofResponseSchema>,
  trusted: Parameters<typeof faultOfChunks>[1],
): Promise<void> {
  const { proof, chunkHashes, merkleRoot } = response;
  await tell(session, GetInclusionMultiProofResponseSchema, response, {
    facts: [
      ["chunks", (proof?.leafIndexes ?? []).map(count).join(" ")],
      ["of", counted(proof?.treeSize ?? 0n, "chunk")],
      ["hashes", chunkHashes.join(" ")],
      ["root", merkleRoot],
    ],
    fault: faultOfChunks(response, trusted),
    holds: "The proof holds: the tree of this size and root has these chunks, each in its place.",
    untold: trusted.head === undefined ? untoldTree : undefined,
  });
}

async function tellGrowth(
  session: Session,
  response: MessageShape<typeof GetConsistencyProofResponseSchema>,
  trusted: Parameters<typeof faultOfGrowth>[1],
): Promise<void> {
  const { proof, firstRoot, secondRoot } = response;
  await tell(session, GetConsistencyProofResponseSchema, response, {
    facts: [
      ["first", counted(proof?.firstSize ?? 0n, "chunk")],
      ["root", firstRoot],
      ["second", counted(proof?.secondSize ?? 0n, "chunk")],
      ["root", secondRoot],
    ],
    fault: faultOfGrowth(response, trusted),
    holds: "The proof holds: the second tree starts with all chunks of the first.",
    untold: trusted.first?.rootHash === undefined ? untoldFirst : undefined,
  });
}

async function tellRecord(
  session: Session,
  response: MessageShape<typeof GetAuditInclusionProofResponseSchema>,
  trusted: Parameters<typeof faultOfRecord>[1],
): Promise<void> {
  const { record, treeHead } = response;
  await tell(session, GetAuditInclusionProofResponseSchema, response, {
    facts: [
      ["record", record?.auditId ?? nothing],
      ["time", time(record?.timestamp)],
      ["rpc", record?.rpc ?? nothing],
      ["actor", record?.actor?.id ?? nothing],
      ["place", count(record?.sequence ?? 0n)],
      ["hash", record?.hash ?? nothing],
      treeHead && ["head", shownHead(treeHead)],
    ],
    fault: faultOfRecord(response, trusted),
    holds: "The proof holds: the log up to this head has this record, as it was written.",
    untold:
      trusted.head === undefined ? `The tree is ${own}; give one that you kept with --head or --heads.` : undefined,
  });
}

async function tellLog(
  session: Session,
  response: MessageShape<typeof GetAuditConsistencyProofResponseSchema>,
  trusted: Parameters<typeof faultOfLog>[1],
): Promise<void> {
  const { first, second } = response;
  await tell(session, GetAuditConsistencyProofResponseSchema, response, {
    facts: [first && ["from", shownHead(first)], second && ["to", shownHead(second)]],
    fault: faultOfLog(response, trusted),
    holds: "The proof holds: the log has only grown from the first head to the second.",
    untold: trusted.first === undefined ? untoldFirst : undefined,
  });
}

/** Shows what was sent, also where it is forged: it is the evidence. */
async function tell<D extends DescMessage>(
  { output }: Session,
  schema: D,
  message: MessageShape<D>,
  {
    facts,
    fault,
    holds,
    untold,
  }: {
    readonly facts: readonly Fact[];
    readonly fault: string | undefined;
    readonly holds: string;
    /** What was taken on trust, where something was. */
    readonly untold: string | undefined;
  },
): Promise<void> {
  if (output.json) await output.message(schema, message);
  else await output.facts(facts);
  if (fault !== undefined) {
    throw new Failure("forged", `The proof does not hold: ${fault.charAt(0).toLowerCase()}${fault.slice(1)}`);
  }
  if (!output.json) await output.line(output.paint(holds, "green"));
  if (untold !== undefined) output.note(untold);
}

// ---------------------------------------------------------------- what options take

function readPlaces(text: string, all: readonly number[] = []): readonly number[] {
  return [...all, readNumber(0, mostChunks)(text)];
}

function readHash(text: string): string {
  if (!/^[0-9a-f]{64}$/.test(text)) throw new InvalidArgumentError("A hash is 64 hexadecimal digits in lower case.");
  return text;
}

function readAsked(text: string): AskedHead {
  if (/^\d{1,15}$/.test(text) && Number(text) > 0) return { treeSize: BigInt(text), rootHash: undefined };
  return readHead(text);
}

function readHead(text: string): TreeHead {
  const head = readTreeHead(text);
  if (head === undefined)
    throw new InvalidArgumentError("A head is written SIZE:ROOT, as `lucid proof log` prints it.");
  return head;
}

import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { expect, test } from "vitest";

import { ManifestValidationStatus } from "../../gen/lucid/repository/v1/manifest_pb.ts";
import type { ManifestFilterSchema } from "../../gen/lucid/repository/v1/manifest_service_pb.ts";
import { hashOf, manifestsApp, newManifest, newSession, upTo } from "./manifest-support.ts";

const { UNSPECIFIED, PENDING, VALID, INVALID } = ManifestValidationStatus;

test("lists and counts have exactly the manifests that the filter means, in either order", async () => {
  await using own = await manifestsApp();
  const { manifests, db } = own;
  const made = [];
  for (const index of upTo(12)) {
    const sessionId = await newSession(db, upTo(2));
    const root = index % 2 === 0 ? {} : { merkleRoot: hashOf("wrong"), chunkCount: 2n, totalSize: 3n };
    const { manifestId } = await newManifest(manifests, { sessionId, ...root });
    if (index % 3 !== 0) await manifests.validateManifest({ manifestId });
    if (index % 4 === 0) {
      await manifests.recordManifestAnchor({ manifestId, blockchainTransactionId: hashOf(index) });
    }
    if (index === 5) await manifests.deleteManifest({ manifestId });
    made.push((await manifests.getManifest({ manifestId, showDeleted: true })).manifest);
  }
  const newest = made.toReversed().filter((manifest) => manifest !== undefined);
  const third = newest[9];
  if (third?.createdAt === undefined) throw new Error("There are twelve");
  const from = timestampDate(third.createdAt).getTime();
  for (const validationStatus of [UNSPECIFIED, PENDING, VALID, INVALID]) {
    for (const blockchainAnchored of [undefined, true, false]) {
      for (const range of [{}, { createdFrom: third.createdAt }, { createdBefore: third.createdAt }]) {
        for (const showDeleted of [false, true]) {
          const filter: MessageInitShape<typeof ManifestFilterSchema> = {
            validationStatus,
            ...range,
            ...(blockchainAnchored !== undefined && { blockchainAnchored }),
          };
          const expected = newest.filter((manifest) => {
            const at = manifest.createdAt === undefined ? 0 : timestampDate(manifest.createdAt).getTime();
            return (
              (validationStatus === UNSPECIFIED || manifest.validationStatus === validationStatus) &&
              (blockchainAnchored === undefined || manifest.blockchainAnchored === blockchainAnchored) &&
              (!("createdFrom" in range) || at >= from) &&
              (!("createdBefore" in range) || at < from) &&
              (showDeleted || manifest.deletedAt === undefined)
            );
          });
          const request = { filter, showDeleted, pageSize: 5 };
          const found = [];
          for (let pageToken = ""; ;) {
            const page = await manifests.listManifests({ ...request, pageToken });
            found.push(...page.manifests);
            pageToken = page.nextPageToken;
            if (pageToken === "") break;
          }
          expect(found).toStrictEqual(expected);
          expect((await manifests.countManifests({ filter, showDeleted })).count).toBe(BigInt(expected.length));
        }
      }
    }
  }
  const oldest = await manifests.listManifests({ orderBy: "created_at", showDeleted: true });
  expect(oldest.manifests).toStrictEqual(newest.toReversed());
});

test("a filter by a time that no manifest can have means all or none", async () => {
  await using own = await manifestsApp();
  const { manifests } = own;
  await newManifest(manifests);
  const all = (await manifests.countManifests({})).count;
  for (const seconds of [253_402_300_800n, 10n ** 15n, 2n ** 63n - 1n]) {
    const [late, early] = [{ seconds }, { seconds: -seconds }];
    const counted = async (filter: MessageInitShape<typeof ManifestFilterSchema>) => {
      const { count } = await manifests.countManifests({ filter });
      const listed = (await manifests.listManifests({ filter, pageSize: 1000 })).manifests.length;
      expect(count).toBe(BigInt(listed));
      return count;
    };
    expect(await counted({ createdFrom: early, createdBefore: late })).toBe(all);
    expect(await counted({ createdFrom: late })).toBe(0n);
    expect(await counted({ createdBefore: early })).toBe(0n);
  }
});

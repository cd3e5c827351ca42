import { isDeepStrictEqual } from "node:util";

import type { MessageInitShape } from "@bufbuild/protobuf";

import { ConflictPolicy, type RestoredUnitSchema } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import type { SearchTemplates, Unit } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail } from "../../errors.ts";
import type { SearchStore } from "../../stores/search.ts";
import { pathOf, rawRequest, refusalOf, statusOf } from "../../stores/search/requests.ts";
import type { RestorePlan } from "../contracts.ts";
import { translated } from "./definition.ts";
import { conflict } from "./restore-plan.ts";
import { type TemplateKind, templateKinds, templatesIn, templatesOf } from "./templates.ts";

interface PlannedTemplate {
  readonly kind: TemplateKind;
  readonly name: string;
  readonly text: string;
  readonly action: "put" | "equal" | "keep";
}

/**
 * The templates of a restore. They are restored after all indices, which they would change otherwise, and not at all where
 * indices get other names: they would then act on names that are in use.
 */
export class RestoredTemplates {
  readonly #unit: Unit;
  readonly #templates: readonly PlannedTemplate[];
  #written = 0;
  #equal = 0;
  #isCompared = false;

  private constructor(unit: Unit, templates: readonly PlannedTemplate[]) {
    this.#unit = unit;
    this.#templates = templates;
  }

  /** Finds what is there; changes nothing. Fails with `RESTORE_CONFLICT` where another template has a name, and policy FAIL. */
  static async plan(
    plan: RestorePlan,
    search: SearchStore,
    signal: AbortSignal,
  ): Promise<RestoredTemplates | undefined> {
    const unit = plan.units.find(({ description }) => description.case === "searchTemplates");
    if (unit?.description.case !== "searchTemplates") return undefined;
    const dialect = await search.dialect(signal);
    const isNarrowed = plan.renames.length > 0 || plan.selection.searchIndices.length > 0;
    const templates: PlannedTemplate[] = [];
    for (const kind of templateKinds) {
      const there = await templatesOf(search.client, kind, signal);
      for (const [name, given] of templatesIn(textOf(kind, unit.description.value))) {
        const text =
          JSON.stringify(translated(JSON.parse(given), dialect)) === JSON.stringify(JSON.parse(given))
            ? given
            : JSON.stringify(translated(JSON.parse(given), dialect));
        const found = there.get(name);
        const isEqual = found !== undefined && isDeepStrictEqual(JSON.parse(found), JSON.parse(text));
        const keeps = isNarrowed || (found !== undefined && plan.conflictPolicy === ConflictPolicy.SKIP);
        templates.push({ kind, name, text, action: isEqual ? "equal" : keeps ? "keep" : "put" });
        const mayReplace =
          plan.conflictPolicy === ConflictPolicy.DROP || plan.conflictPolicy === ConflictPolicy.OVERWRITE;
        if (found !== undefined && !isEqual && !keeps && !mayReplace) throw conflict([name]);
      }
    }
    return new RestoredTemplates(unit, templates);
  }

  async restore(search: SearchStore, signal: AbortSignal): Promise<void> {
    for (const { kind, name, text, action } of this.#templates) {
      if (action !== "put") continue;
      const request = { method: "PUT", path: pathOf(kind.path, name), body: text, name: `${kind.path}.put` } as const;
      try {
        await rawRequest(search.client, request, { signal });
      } catch (error) {
        if (statusOf(error) !== 400) throw error;
        const { type, reason } = refusalOf(error);
        throw fail("RESTORE_REFUSED", `The search server does not take the template ${name}: ${type}`, {
          metadata: { store: "search", template: name, error_type: type, error: reason.slice(0, 500) },
          cause: error,
        });
      }
      this.#written++;
    }
  }

  async compare(search: SearchStore, signal: AbortSignal): Promise<void> {
    this.#equal = 0;
    for (const kind of templateKinds) {
      const there = await templatesOf(search.client, kind, signal);
      for (const template of this.#templates) {
        if (template.kind !== kind || template.action === "keep") continue;
        const found = there.get(template.name);
        if (found !== undefined && isDeepStrictEqual(JSON.parse(found), JSON.parse(template.text))) this.#equal++;
      }
    }
    this.#isCompared = true;
  }

  report(): MessageInitShape<typeof RestoredUnitSchema> {
    const kept = this.#templates.filter(({ action }) => action === "keep").length;
    const isEqual = this.#isCompared && this.#equal + kept === this.#templates.length;
    return {
      store: Store.SEARCH,
      source: this.#unit.name,
      target: this.#unit.name,
      expectedItems: BigInt(this.#templates.length),
      writtenItems: BigInt(this.#written),
      skippedItems: BigInt(kept),
      equalItems: BigInt(this.#equal),
      equal: isEqual,
      remark: isEqual ? "" : this.#remark(),
    };
  }

  #remark(): string {
    if (this.#isCompared) return "Not all templates are as in the backup";
    return this.#written === 0 ? "Nothing was changed" : `${this.#written} templates are in place, not compared`;
  }
}

function textOf({ kind }: TemplateKind, templates: SearchTemplates): string {
  return kind === "component" ? templates.componentTemplatesJson : templates.indexTemplatesJson;
}

import type { DescService } from "@bufbuild/protobuf";

import { Health } from "../../gen/grpc/health/v1/health_pb.ts";

/** A service that nobody serves, with the rpcs of the health service. */
export const NobodyService = withName(Health, "nobody.v1.NobodyService");

function withName<S extends DescService>(service: S, typeName: string): S {
  // A method finds its service by its parent, so both are given the other name.
  const renamed = Object.create(service, { typeName: { value: typeName } }) as S;
  const methods = service.methods.map(
    (method) => Object.create(method, { parent: { value: renamed } }) as typeof method,
  );
  const byName = Object.fromEntries(methods.map((method) => [method.localName, method]));
  return Object.defineProperties(renamed, { methods: { value: methods }, method: { value: byName } });
}

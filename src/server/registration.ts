import type { DescMethod, DescService } from "@bufbuild/protobuf";
import { createServiceImplSpec, type MethodImplSpec, type ServiceImpl } from "@connectrpc/connect";

/** A service with its handlers, as both listeners take it. */
export interface Registration {
  readonly service: DescService;
  // The type of the handlers went into `serve`, which checks it.
  readonly implementation: object;
}

/** Pairs a service with its handlers. */
export function serve<S extends DescService>(service: S, implementation: ServiceImpl<S>): Registration {
  return { service, implementation };
}

/** The handlers of a registration, by method. */
export function methodsOf({ service, implementation }: Registration): readonly [DescMethod, MethodImplSpec][] {
  // `serve` checked that the handlers are of this service.
  const spec = createServiceImplSpec(service, implementation as ServiceImpl<DescService>);
  return service.methods.flatMap((method): [DescMethod, MethodImplSpec][] => {
    const found = spec.methods[method.localName];
    return found === undefined ? [] : [[method, found]];
  });
}

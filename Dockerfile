# The service as it runs everywhere: the sources, on Node, without a build.
FROM node:24.21.0-bookworm-slim

WORKDIR /app
COPY package.json package-lock.json ./
# The optional packages carry a Node, which is here already; no package needs its install script.
RUN npm ci --omit=dev --omit=optional --ignore-scripts --no-audit --no-fund && npm cache clean --force
COPY gen ./gen
COPY src ./src
# A named volume takes its owner from this folder.
RUN mkdir /backups && chown node:node /backups

ENV NODE_ENV=production \
    LUCID_GRPC_HOST=0.0.0.0 \
    LUCID_GRPC_PORT=50051 \
    LUCID_HTTP_HOST=0.0.0.0 \
    LUCID_HTTP_PORT=8080 \
    LUCID_BACKUP_DIR=/backups
# Callers are not authenticated, so the service refuses these addresses until LUCID_EXPOSURE=open says that they are guarded.

USER node
EXPOSE 50051 8080
VOLUME /backups
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.LUCID_HTTP_PORT}/livez`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
# local/service.ts says why of this and of the options of Node.
ENV MALLOC_MMAP_THRESHOLD_=262144
CMD ["node", "--max-semi-space-size=16", "--heap-growing-percent=50", "src/main.ts"]

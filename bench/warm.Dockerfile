# Fills the cache mounts of bench/Dockerfile with the packages and package lists that the other methods also use.
ARG BASE
ARG TOOLS
FROM ${TOOLS} AS tools

FROM ${BASE} AS base
FROM base
ARG ROUND
RUN --mount=type=bind,from=tools,source=/apt,target=/dev/factory \
    --mount=type=cache,id=factory-bench-apt,target=/var/cache/apt,from=base,source=/var/cache/apt \
    --mount=type=cache,id=factory-bench-lists,target=/var/lib/apt/lists \
    : "${ROUND}" && cp -a /dev/factory/archives/. /var/cache/apt/archives/ \
    && cp -a /dev/factory/lists/. /var/lib/apt/lists/

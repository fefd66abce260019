# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
# gcc and libc's headers, for aws-lc-rs and jemalloc, come with the image; the latter is also built by make.
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY Cargo.toml Cargo.lock build.rs ./
# What the allocator is told.
COPY .cargo/config.toml .cargo/
COPY src src
COPY benches benches
COPY config config
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin portcullis \
    && install -D target/release/portcullis /image/usr/local/bin/portcullis \
    && install -d /image/etc/portcullis /image/var/lib/portcullis

# glibc, CA certificates and a user that is not root, but no shell and no package manager. Not `scratch` with a static
# binary: musl would need a cross compiler for aws-lc-rs, and its allocator is several times slower under threads.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="portcullis" \
      org.opencontainers.image.description="An authenticating reverse-proxy sidecar with an API-key admin API" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image/usr/local/bin/portcullis /usr/local/bin/portcullis
COPY --from=build /image/etc/portcullis /etc/portcullis
COPY --from=build --chown=nonroot:nonroot /image/var/lib/portcullis /var/lib/portcullis

USER nonroot
# The gate itself, and metrics and health.
EXPOSE 8080 9900
# The store: keys and their history. `[store] path` must name this folder.
VOLUME /var/lib/portcullis
# Ends on SIGTERM as on SIGINT: requests in flight are finished first.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/portcullis", "healthcheck"]

ENTRYPOINT ["/usr/local/bin/portcullis"]
CMD ["serve", "--config", "/etc/portcullis/portcullis.toml"]

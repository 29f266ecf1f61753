# Casemate with everything that it needs: QEMU, the tools, and the guest's images, built here and not at the first start:
# that takes root and the network, and a running server has neither. `docker build -t casemate .`
FROM debian:bookworm-slim

# The packages of scripts/setup, and a first process that collects those that machines leave behind.
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      python3-venv qemu-system-x86 mmdebstrap e2fsprogs erofs-utils busybox-static cpio lz4 kmod uidmap zstd xz-utils ca-certificates \
      tini \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 casemate \
 && useradd --uid 10001 --gid casemate --no-create-home --home-dir /var/lib/casemate --shell /usr/sbin/nologin casemate \
 && install -d -m 0700 -o casemate -g casemate /var/lib/casemate

WORKDIR /opt/casemate
COPY requirements-otel.lock ./
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check --require-hashes --requirement requirements-otel.lock

COPY pyproject.toml README.md LICENSE ./
COPY auth auth
COPY mcp_server mcp_server
COPY runs runs
COPY storage storage
COPY vmm vmm
RUN /opt/venv/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
 && ln -s /opt/venv/bin/casemate /opt/venv/bin/voidbox /usr/local/bin/

ENV CASEMATE_DATA=/var/lib/casemate \
    CASEMATE_IMAGES=/var/lib/casemate/images \
    CASEMATE_HOST=0.0.0.0 \
    CASEMATE_PORT=8080 \
    CASEMATE_ALLOWED_HOSTS=localhost \
    CASEMATE_LOG_FORMAT=json

RUN CASEMATE_IMAGES=/opt/casemate/images casemate image build \
 && rm -rf /var/lib/apt/lists/*

COPY deploy/compose/start.sh ./

USER casemate
VOLUME /var/lib/casemate
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 \
  CMD ["/opt/venv/bin/python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/ready', timeout=5)"]
ENTRYPOINT ["tini", "--", "/opt/casemate/start.sh", "/opt/casemate/images"]
CMD ["serve"]

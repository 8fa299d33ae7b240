FROM python:3.11-slim

WORKDIR /opt/anomaly
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY anomaly anomaly
COPY configs configs
COPY export export
COPY memory_bank memory_bank
RUN pip install --no-cache-dir --constraint constraints.txt '.[edge]' \
    && rm -rf /opt/anomaly \
    && useradd --system --uid 10001 --home-dir /var/lib/anomaly --create-home anomaly \
    && install -d -o anomaly -g anomaly -m 0700 /var/cache/anomaly

# It is run with --restart always: what only a start repairs may end the run.
ENV ANOMALY_CACHE=/var/cache/anomaly ANOMALY_STARTED_AGAIN=1 PYTHONUNBUFFERED=1
USER 10001
WORKDIR /var/lib/anomaly
VOLUME ["/var/lib/anomaly", "/var/cache/anomaly"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9188/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "anomaly"]
CMD ["run", "--help"]

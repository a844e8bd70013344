# A server over stdio, or any of the commands. Versions and digests: requirements.txt and requirements-build.txt.
FROM python:3.13-slim AS built
WORKDIR /source
RUN python -m venv /app
ENV PATH=/app/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.txt requirements-build.txt ./
RUN pip install --require-hashes -r requirements.txt
RUN python -m venv /build && /build/bin/pip install --require-hashes -r requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY skill skill
RUN /build/bin/python -m build --wheel --no-isolation --outdir /wheels && pip install --no-deps /wheels/*.whl

FROM python:3.13-slim
RUN useradd --create-home --uid 10001 migration
COPY --from=built /app /app
USER migration
WORKDIR /home/migration
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1
ENTRYPOINT ["qdrant-model-migration"]

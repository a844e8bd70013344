"""Which secrets does the environment hold, and how are they kept out of answers and logs?"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime

_HOLDS_A_SECRET = re.compile(r"((API|ACCESS|PRIVATE|SECRET)_?KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_MAY_HOLD_ONE = re.compile(r"KEY$", re.IGNORECASE)
_HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_METRICS_HEADERS")
"""Of the collector of OpenTelemetry: they hold its token, and its SDK repeats them where they are malformed."""
_IDENTIFIER = re.compile(r"[a-z_]+")
"""What is called a key and looks like this is one of a payload: CONTENT_KEY=page_content of LangChain, for example."""
_NAMED = re.compile(r'"key_variable"\s*:\s*"([A-Za-z_][A-Za-z0-9_]*)"')
_PASSWORD = re.compile(r"://[^\s/@:\"]{0,200}:([^\s/@\"]{1,200})@")
LEAST_SECRET_CHARS = 12
"""A shorter one may be a word, which stands in names as well; to hide it there would change what they say."""


def known_secrets() -> tuple[str, ...]:
    """Every key and token of the environment, the longest first: those named like one, and those that a setting names as one."""
    settings = os.environ.get("QDRANT_MIGRATION_MODELS", "") + os.environ.get("QDRANT_MIGRATION_CONNECTIONS", "")
    named = {*_NAMED.findall(settings), *_HEADERS}
    found = {value.strip() for name, value in os.environ.items() if name in named or _HOLDS_A_SECRET.search(name)}
    found |= {v.strip() for name, v in os.environ.items() if _MAY_HOLD_ONE.search(name) and not _IDENTIFIER.fullmatch(v.strip())}
    # The address of a private endpoint may hold a password.
    found |= {password for value in os.environ.values() for password in _PASSWORD.findall(value)}
    return tuple(sorted((value for value in found if len(value) >= LEAST_SECRET_CHARS), key=len, reverse=True))


def redacted(text: str, secrets: tuple[str, ...] | None = None) -> str:
    """A text without any of the keys: a server, a proxy or a library may repeat what it was sent."""
    for secret in known_secrets() if secrets is None else secrets:
        if secret in text:
            text = text.replace(secret, "***")
    return text


class RedactingFormatter(logging.Formatter):
    """Lines of a log, tracebacks included, without keys."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


class JsonFormatter(RedactingFormatter):
    """One object a line, for machines that read logs."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            # Before it is written as JSON, which would write a key with a line break otherwise than it is.
            "message": redacted(record.getMessage()),
        }
        if record.exc_info:
            told["exception"] = redacted(self.formatException(record.exc_info))
        return json.dumps(told, ensure_ascii=False)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Logs never go to stdout: under stdio that is the protocol's. QDRANT_MIGRATION_LOG_FORMAT=json makes each line an object."""
    as_json = os.environ.get("QDRANT_MIGRATION_LOG_FORMAT", "").strip().lower() == "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(level)
    handler.setFormatter(JsonFormatter() if as_json else RedactingFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for noisy in ("httpx", "httpcore", "mcp", "stamina"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))

"""What does this server log, and who wants to read it? Clients of the 2025-11-25 protocol ask by `logging/setLevel`; standard error gets it anyway.

Only our own messages, without tracebacks, keys and control characters: what a library says may hold an address.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

import anyio
from mcp.server.connection import Connection
from mcp.types import EmptyResult, LoggingLevel, SetLevelRequestParams

from qdrant_model_migration.domain.untrusted import visible
from qdrant_model_migration.redaction import redacted
from qdrant_model_migration.tools.support import connection_of

OWN = "qdrant_model_migration"
SEND_S = 0.5
MOST_WAITING = 200
"""Messages; the oldest give way."""
_NUMBERS: dict[LoggingLevel, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "notice": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "alert": logging.CRITICAL,
    "emergency": logging.CRITICAL,
}
_NAMES: dict[int, LoggingLevel] = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "critical",
}


class ServerLog(logging.Handler):
    """Keeps the last messages until `send` has told them; may be written to by any thread."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._levels: dict[Connection, int] = {}
        self._waiting: deque[tuple[int, str, str]] = deque(maxlen=MOST_WAITING)

    def emit(self, record: logging.LogRecord) -> None:
        if self._levels:
            self._waiting.append((record.levelno, record.name, redacted(visible(record.getMessage(), one_line=True))))

    async def on_set_level(self, ctx: Any, params: SetLevelRequestParams) -> EmptyResult:
        """`logging/setLevel`: from now on, what is at least so grave."""
        connection = connection_of(ctx)
        if connection not in self._levels:
            connection.exit_stack.callback(self._forget, connection)
        self._levels[connection] = _NUMBERS[params.level]
        self._set_level()
        return EmptyResult()

    def _forget(self, connection: Connection) -> None:
        self._levels.pop(connection, None)
        self._set_level()

    def _set_level(self) -> None:
        """Our loggers make no message that nobody reads; standard error has a level of its own."""
        logging.getLogger(OWN).setLevel(min(self._levels.values(), default=logging.NOTSET))

    async def send(self) -> None:
        """Tell what was logged, until cancelled."""
        logger = logging.getLogger(OWN)
        logger.addHandler(self)
        try:
            while True:
                await anyio.sleep(SEND_S)
                while self._waiting:
                    await self._tell(*self._waiting.popleft())
        finally:
            logger.removeHandler(self)

    async def _tell(self, level: int, name: str, message: str) -> None:
        named = _NAMES[max((number for number in _NAMES if number <= level), default=logging.DEBUG)]
        for connection, least in list(self._levels.items()):
            if level < least:
                continue
            try:
                await connection.log(named, message, name)
            except Exception:  # noqa: BLE001 - it is gone, and how that shows depends on the transport
                # Not logged: that would be told as well.
                self._forget(connection)

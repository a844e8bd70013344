"""The clients, and the server over HTTP, for the tests of this folder."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients import installed
from tests.mcp.over_http import started
from tests.pinned import required

Serve = Callable[..., str]


@pytest.fixture(scope="session", autouse=True)
def clients() -> None:
    required(installed.install, "MCP clients")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts `serve --http` on a free port and gives the address of MCP; gone after the test."""
    running: list[subprocess.Popen[str]] = []

    def start(**environment: str) -> str:
        process, url = started((), {"QDRANT_PATH": str(tmp_path / "qdrant"), **environment})
        running.append(process)
        return url

    yield start
    for process in running:
        process.terminate()
        process.communicate(timeout=20)

"""The clients, and the server over HTTP, for the tests of this folder."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients import installed
from tests.conftest import IS_CI
from tests.mcp.over_http import started

Serve = Callable[..., str]


@pytest.fixture(scope="session", autouse=True)
def clients() -> None:
    """Fails in CI where they cannot be had, and skips elsewhere."""
    try:
        installed.install()
    except installed.ClientsUnavailable as error:
        reason = f"no MCP clients to test with: {error}"
        raise (pytest.fail.Exception(reason, pytrace=False) if IS_CI else pytest.skip.Exception(reason)) from None


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

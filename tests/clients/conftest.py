"""The clients, and the server over HTTP, for the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients import installed
from tests.conftest import IS_CI

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
        process = subprocess.Popen(
            [sys.executable, "-m", "qdrant_model_migration", "serve", "--http", "--port", "0"],
            env={**os.environ, "QDRANT_PATH": str(tmp_path / "qdrant"), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stderr is not None
        told = process.stderr.readline()
        assert "Serving MCP at http://" in told, told
        return told.split(" at ")[1].split(" ")[0]

    yield start
    for process in running:
        process.terminate()
        process.communicate(timeout=20)

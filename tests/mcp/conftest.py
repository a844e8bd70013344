"""Fixtures of the tests that speak MCP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mcp.hosts import end_workers


@pytest.fixture(autouse=True)
def _no_worker_outlives_its_test(home: Path) -> Iterator[None]:
    assert home.is_dir()
    yield
    end_workers()

"""Fixtures of the fault tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mcp.hosts import end_workers


@pytest.fixture(autouse=True)
def _no_worker_outlives_its_test(home: Path) -> Iterator[None]:
    """Whoever stands by for a driver that a test killed waits for a server that is gone with the test."""
    assert home.is_dir()
    yield
    end_workers()

"""Fixtures of the tests that carry out strategies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Backend
from tests.mcp.hosts import end_workers
from tests.strategies.oracle import Oracle
from tests.strategies.places import Place, place_of


@pytest.fixture(scope="session")
def oracle(assets: Path) -> Oracle:
    return Oracle(assets)


@pytest.fixture
def place(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> Place:
    return place_of(any_qdrant, monkeypatch)


@pytest.fixture(autouse=True)
def _no_worker_outlives_its_test(home: Path) -> Iterator[None]:
    assert home.is_dir()
    yield
    end_workers()

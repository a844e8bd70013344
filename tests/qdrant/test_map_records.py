"""Does the ledger give a map back as it was, and never a part of one?"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from qdrant_model_migration.domain.linear_map import LinearMap
from qdrant_model_migration.domain.map_records import disassembled
from qdrant_model_migration.errors import MigrationError
from qdrant_model_migration.qdrant.ledger import Ledger
from tests.conftest import Backend
from tests.qdrant.seeds import opened

MOST_BYTES = 4 * 1024 * 1024


@asynccontextmanager
async def ledger_of(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ledger]:
    async with opened(backend, monkeypatch) as context:
        ledger = await context.ledger()
        await ledger.create()
        yield ledger


def some_map(rows: int, columns: int, seed: int = 0) -> LinearMap:
    drawn = np.random.default_rng(seed).normal(size=(rows + 1, columns)).astype(np.float32)
    return LinearMap(matrix=drawn[:-1], offset=drawn[-1], normalizes=True, kind="procrustes")


async def test_a_large_map_is_read_back_bit_for_bit_from_small_records(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    found = some_map(1024, 1536)
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        assert await ledger.load_map("m-1") is None
        await ledger.save_map("m-1", found)
        points, _ = await ledger.gateway.points.scroll(ledger.collection, offset=None, limit=100)
        sizes = [len(json.dumps(p.payload)) for p in points]
        again = await ledger.load_map("m-1")
        assert await ledger.load_map("m-2") is None
    assert again is not None
    assert (again.matrix == found.matrix).all()
    assert (again.offset == found.offset).all()
    assert (again.digest, again.kind, again.normalizes) == (found.digest, "procrustes", True)
    assert max(sizes) < MOST_BYTES
    assert sum(sizes) > 8_000_000


async def test_a_map_written_in_part_is_not_there_and_the_one_before_stays(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = some_map(6, 4), some_map(6, 4, seed=1)
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        index, parts = disassembled(second)
        await ledger.records.write("map_part", "m-1", f"{index.digest}-0", parts[0])
        assert await ledger.load_map("m-1") is None
        await ledger.save_map("m-1", first)
        await ledger.records.write("map_part", "m-1", f"{index.digest}-0", parts[0])
        kept = await ledger.load_map("m-1")
        assert kept is not None
        assert kept.digest == first.digest
        await ledger.save_map("m-1", second)
        await ledger.save_map("m-1", second)
        now = await ledger.load_map("m-1")
        assert now is not None
        assert now.digest == second.digest


async def test_a_damaged_map_is_told_and_not_used(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    found = some_map(6, 4)
    async with ledger_of(any_qdrant, monkeypatch) as ledger:
        await ledger.save_map("m-1", found)
        index, _ = disassembled(found)
        _, others = disassembled(some_map(6, 4, seed=1))
        await ledger.records.write("map_part", "m-1", f"{index.digest}-0", others[0])
        with pytest.raises(MigrationError, match="is damaged: its 1 parts do not give the digest"):
            await ledger.load_map("m-1")

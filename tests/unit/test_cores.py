"""Are a container's limits seen, and does what runs at once stay within its bound?"""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from qdrant_model_migration.embedders.cores import Room, calls_at_once, usable_cores

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000", CORES),
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("150000 100000", min(CORES, 2)),
        ("6400000 100000", CORES),
        ("100000 0", CORES),
        ("", CORES),
    ],
)
def test_a_limit_of_the_container_counts(tmp_path: Path, text: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path / "cpu.max") == cores


def test_without_a_limit_all_cores_are_taken_and_the_setting_overrides_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores(tmp_path / "missing") == CORES
    monkeypatch.setenv("QDRANT_MIGRATION_EMBEDDING_THREADS", "3")
    assert calls_at_once() == 3


async def test_no_more_goes_on_at_once_than_there_is_room_for() -> None:
    room, inside, most = Room(10), 0, 0

    async def take(size: int) -> None:
        nonlocal inside, most
        async with room.taken(size):
            inside += size
            most = max(most, inside)
            await anyio.sleep(0.001)
            inside -= size

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for size in (4, 3, 3, 9, 1, 10, 2, 2, 8) * 5:
                group.start_soon(take, size)
    assert 8 <= most <= 10


async def test_what_is_larger_than_all_room_goes_alone() -> None:
    room, seen = Room(10), []

    async def take(size: int) -> None:
        async with room.taken(size):
            seen.append(room._taken)
            await anyio.sleep(0.001)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for size in (5, 50, 5, 50):
                group.start_soon(take, size)
    assert max(seen) == 50
    assert room._taken == 0


async def test_a_call_that_is_cancelled_leaves_its_room() -> None:
    room = Room(10)
    with anyio.move_on_after(0.01):
        async with room.taken(10):
            await anyio.sleep(60)
    with anyio.fail_after(5):
        async with room.taken(10):
            pass

"""What becomes of a difference seen after the swap? Decided by the numbers of the operations."""

from __future__ import annotations

import pytest

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.recipe import Cutover
from qdrant_model_migration.domain.verification import Kind
from qdrant_model_migration.operations.sweep import fate_of, has_numbers

SOURCE_MARK, TARGET_MARK = 100, 50
BEFORE, LATE = 100, 101
"""Of the source: up to its mark, and after it."""
AS_IT_WAS, NEWER = 50, 51
"""Of the target."""


def cutover(source: int | None = SOURCE_MARK, target: int | None = TARGET_MARK) -> Cutover:
    return Cutover(moves=(), at="2026-01-01", source_watermark=source, target_watermark=target)


@pytest.mark.parametrize(
    ("kind", "source", "target", "fate"),
    [
        # Only the source has it: a late write, or deleted through the alias since.
        (Kind.MISSING, LATE, None, "carry"),
        (Kind.MISSING, BEFORE, None, "keep"),
        (Kind.MISSING, None, None, "unresolved"),
        # Only the target has it: written through the alias, or deleted from the source late.
        (Kind.EXTRA, None, NEWER, "keep"),
        (Kind.EXTRA, None, AS_IT_WAS, "carry"),
        (Kind.EXTRA, None, None, "unresolved"),
        # Both have it: the target wins where it was written since.
        (Kind.CHANGED, LATE, AS_IT_WAS, "carry"),
        (Kind.CHANGED, BEFORE, AS_IT_WAS, "carry"),
        (Kind.CHANGED, LATE, NEWER, "superseded"),
        (Kind.CHANGED, BEFORE, NEWER, "keep"),
        (Kind.CHANGED, None, NEWER, "keep"),
        (Kind.CHANGED, None, AS_IT_WAS, "carry"),
        (Kind.CHANGED, LATE, None, "unresolved"),
    ],
)
def test_fate(kind: Kind, source: int | None, target: int | None, fate: str) -> None:
    assert fate_of(kind, source, target, cutover()) == fate


@pytest.mark.parametrize(("source", "fate"), [(LATE, "keep"), (LATE + 1, "carry")])
def test_what_a_sweep_looked_at_and_is_gone_was_deleted_through_the_alias(source: int, fate: str) -> None:
    """Superseded then by what the app wrote through the alias, and deleted by it afterwards."""
    swept = cutover().model_copy(update={"source_swept": LATE})
    assert fate_of(Kind.MISSING, source, None, swept) == fate


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("marks", [(None, TARGET_MARK), (SOURCE_MARK, None), (None, None)])
def test_without_watermarks_nothing_can_be_decided(kind: Kind, marks: tuple[int | None, int | None]) -> None:
    assert fate_of(kind, LATE, AS_IT_WAS, cutover(*marks)) == "unresolved"


def test_operations_are_numbered_together_in_a_single_shard_only() -> None:
    def sharded(number: int | None, peers: int = 1, **params: str) -> Collection:
        config = {"params": {**params, **({"shard_number": number} if number else {})}}
        return Collection(name="c", points=1, fields=(), config=config, peers=peers)

    assert has_numbers(sharded(1), sharded(1))
    assert not has_numbers(sharded(1), sharded(2))
    assert not has_numbers(sharded(None))
    assert has_numbers(sharded(1, sharding_method="auto"))
    assert not has_numbers(sharded(1), sharded(1, sharding_method="custom"))
    assert not has_numbers(sharded(1, peers=2))

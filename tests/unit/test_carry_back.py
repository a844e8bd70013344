"""What goes back to the old collection, what stays, and what is listed because both sides were written to?"""

from __future__ import annotations

from typing import Any

import pytest

from qdrant_model_migration.domain.carry_back import fate_back, most_deletes, why_not_carried_back
from qdrant_model_migration.domain.recipe import Cutover, Moved
from qdrant_model_migration.domain.verification import Kind
from qdrant_model_migration.results import SourceMatch
from tests.unit.test_migration import migration

CUTOVER = Cutover(moves=(Moved(alias="live", previous="docs", current="docs-new"),), at="now", source_watermark=10, target_watermark=20)
BEFORE, AFTER = 5, 50
MATCH = SourceMatch(model="old", text_field="text", sampled=32, threshold=0.99, is_match=True)


@pytest.mark.parametrize(
    ("kind", "source", "target", "is_filling", "fate"),
    [
        # Written through the alias only.
        (Kind.CHANGED, BEFORE, AFTER, False, "back"),
        (Kind.EXTRA, None, AFTER, False, "back"),
        (Kind.MISSING, BEFORE, None, False, "back"),
        # Written by a writer that was not moved only.
        (Kind.CHANGED, AFTER, BEFORE, False, "stays"),
        (Kind.MISSING, AFTER, None, False, "stays"),
        (Kind.EXTRA, None, BEFORE, False, "stays"),
        # Both, or nobody knows.
        (Kind.CHANGED, AFTER, AFTER, False, "conflict"),
        (Kind.CHANGED, None, AFTER, False, "conflict"),
        (Kind.CHANGED, BEFORE, None, False, "conflict"),
        (Kind.EXTRA, None, None, False, "conflict"),
        (Kind.MISSING, None, None, False, "stays"),
        # Filling numbers a point of the target as a write does.
        (Kind.CHANGED, BEFORE, AFTER, True, "back"),
        (Kind.CHANGED, AFTER, AFTER, True, "conflict"),
        (Kind.EXTRA, None, AFTER, True, "conflict"),
    ],
)
def test_a_difference_goes_back_only_when_it_is_the_alias_s_doing(
    kind: Kind, source: int | None, target: int | None, is_filling: bool, fate: str
) -> None:
    assert fate_back(kind, source, target, CUTOVER, is_filling=is_filling) == fate


def test_what_this_tool_carried_over_is_nobody_s_write() -> None:
    """The late write that was carried over, and the source's number of then, are no writes since."""
    assert fate_back(Kind.CHANGED, 15, 25, CUTOVER, ours=(25, 15)) == "stays"
    assert fate_back(Kind.CHANGED, 15, 26, CUTOVER, ours=(25, 15)) == "back"
    assert fate_back(Kind.CHANGED, 16, 25, CUTOVER, ours=(25, 15)) == "stays"
    assert fate_back(Kind.CHANGED, 16, 26, CUTOVER, ours=(25, 15)) == "conflict"
    assert fate_back(Kind.EXTRA, None, 25, CUTOVER, ours=(25, 15)) == "stays"
    assert fate_back(Kind.MISSING, 15, None, CUTOVER, ours=(25, 15)) == "back"


def test_what_an_earlier_pass_wrote_back_is_nobody_s_write() -> None:
    """Edited, inserted or deleted through the alias again after it was carried back."""
    returned = (15, 25)
    assert fate_back(Kind.CHANGED, 15, 26, CUTOVER, returned=returned) == "back"
    assert fate_back(Kind.CHANGED, 16, 26, CUTOVER, returned=returned) == "conflict"
    assert fate_back(Kind.MISSING, 15, None, CUTOVER, returned=returned) == "back"
    assert fate_back(Kind.MISSING, 16, None, CUTOVER, returned=returned) == "stays"
    assert fate_back(Kind.EXTRA, None, 25, CUTOVER, returned=returned) == "stays", "deleted in the source since"
    assert fate_back(Kind.EXTRA, None, 26, CUTOVER, returned=returned) == "back"


@pytest.mark.parametrize(("points", "most"), [(0, 100), (2_000, 100), (2_020, 101), (1_000_000, 50_000)])
def test_a_rollback_deletes_no_large_share_of_the_source(points: int, most: int) -> None:
    assert most_deletes(points) == most


@pytest.mark.parametrize(
    ("changes", "is_numbered", "why"),
    [
        ({"current_model": "old", "source_match": MATCH}, True, None),
        ({"current_model": "old", "source_match": MATCH}, False, "not numbered"),
        ({"current_model": "old", "source_match": MATCH.model_copy(update={"is_match": False})}, True, "did not match"),
        ({"current_model": None}, True, "was not stated"),
        ({"current_model": "old", "source_match": MATCH, "text_field": ""}, True, "was not stated"),
        (
            {"current_model": "old", "source_match": MATCH, "cutover": CUTOVER.model_copy(update={"target_watermark": None})},
            True,
            "not numbered",
        ),
    ],
)
def test_nothing_is_carried_back_that_cannot_be_made_as_it_was(changes: dict[str, Any], is_numbered: bool, why: str | None) -> None:
    found = why_not_carried_back(migration("cut_over", **{"cutover": CUTOVER, **changes}), is_numbered=is_numbered)
    assert (found is None) if why is None else (found is not None and why in found)

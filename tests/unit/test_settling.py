"""When does a driver that took over begin, while requests of the lost one may still be on their way?"""

from __future__ import annotations

from typing import Any

import pytest

from qdrant_model_migration.domain.recipe import Cutover
from qdrant_model_migration.worker.phase_work import may_begin_unsettled
from tests.unit.test_migration import migration


@pytest.mark.parametrize(
    ("phase", "changes", "may"),
    [
        ("backfilling", {}, True),
        ("backfilling", {"intent": "swapping"}, False),
        ("backfilling", {"cutover": Cutover(at="2026-01-01T00:00:00+00:00", moves=())}, False),
        ("backfilled", {}, False),
        ("verified", {}, False),
        ("cut_over", {}, False),
    ],
)
def test_only_the_ranges_of_a_target_that_never_served_are_worked_at_once(phase: str, changes: dict[str, Any], may: bool) -> None:
    assert may_begin_unsettled(migration(phase, **changes)) is may

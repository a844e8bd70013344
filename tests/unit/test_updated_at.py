"""Is a field that tells when a point was written understood, and refused where it tells no time?"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from qdrant_model_migration.domain.updated_at import SLACK_S, UpdatedAt, since, understood
from qdrant_model_migration.errors import Refused

AT = 1_790_000_000.0
INDEXES: dict[str, Any] = {
    "at": {"data_type": "integer"},
    "when": {"data_type": "datetime"},
    "f": {"data_type": "float"},
    "word": {"data_type": "keyword"},
}


@pytest.mark.parametrize(
    ("field", "value", "unit"),
    [
        ("at", int(AT), "s"),
        ("at", int(AT * 1e3), "ms"),
        ("at", int(AT * 1e6), "us"),
        ("at", int(AT * 1e9), "ns"),
        ("f", AT, "s"),
        ("when", "2026-09-21T14:13:20Z", "datetime"),
        ("when", "2026-09-21T16:13:20+02:00", "datetime"),
        ("when", "2026-09-21 14:13:20", "datetime"),
    ],
)
def test_the_unit_is_told_by_the_values(field: str, value: object, unit: str) -> None:
    found = understood(field, INDEXES, [{field: value}, {"n": 1}], "docs")
    assert (found.unit, found.coverage) == (unit, 0.5)
    assert found.seconds(value) == AT
    held = found.value(AT)
    assert held == (datetime.fromtimestamp(AT, UTC) if unit == "datetime" else pytest.approx(float(str(value))))


@pytest.mark.parametrize(
    ("field", "payloads", "why"),
    [
        (
            "absent",
            [{}],
            r"'absent' of 'docs' has no payload index.*Indexes that could tell: 'at' \('integer'\), 'f' \('float'\), 'when' \('datetime'\)",
        ),
        ("word", [{"word": "2026-09-21T14:13:20Z"}], "indexed as 'keyword', which has no order of time"),
        (
            "at",
            [{"at": 1}, {"at": 42}],
            r"'at' holds no times in 2 sampled points.*\(for example 1, 42\).*a counter of revisions tells no time",
        ),
        ("at", [{"at": True}, {}], "holds no times"),
        ("at", [{"at": int(AT)}, {"at": int(AT * 1e3)}], "holds times of different units"),
        ("when", [{"when": "yesterday"}, {"when": [AT]}], "holds no times"),
    ],
)
def test_what_tells_no_time_is_refused(field: str, payloads: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(Refused, match=f"Nothing was changed: .*{why}"):
        understood(field, INDEXES, payloads, "docs")


def test_a_nested_field_is_read_by_its_path() -> None:
    found = understood("meta.at", {"meta.at": {"data_type": "integer"}}, [{"meta": {"at": int(AT)}}], "docs")
    assert found == UpdatedAt(field="meta.at", unit="s")


def test_the_next_pass_reads_from_the_sources_newest_time_but_not_from_the_future() -> None:
    assert since(AT, AT + 5_000) == AT - SLACK_S, "the app's clock is behind ours"
    assert since(AT + 10**9, AT) == AT - SLACK_S, "one point of a far future"

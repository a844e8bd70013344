"""What was written lately? A payload field that says when, as far as it can be believed: never for a proof, only to look there first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain.collection import Json
from qdrant_model_migration.domain.points import Payload
from qdrant_model_migration.domain.texts import read_path
from qdrant_model_migration.errors import Refused

SLACK_S = 60.0
"""Clocks of an app's machines differ, and a write arrives after the time that it states: passes look that much further back."""
FULL_EVERY_S = 600.0
"""A full pass alone finds deletes, and writes that do not tell their time."""
INDEXED_AS = ("datetime", "integer", "float")

Unit = Literal["datetime", "s", "ms", "us", "ns"]
_PER_SECOND: dict[Unit, float] = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_LEAST = 1e8
"""Seconds: 1973. What is smaller counts something else, such as revisions, each of its own point."""
_MOST = 1e11


class UpdatedAt(BaseModel):
    """The field, and what its values are."""

    model_config = ConfigDict(frozen=True)

    field: str
    unit: Unit
    coverage: float = 1.0
    """Share of the sampled points that hold it."""

    def seconds(self, value: object) -> float | None:
        """A value as seconds since 1970; None where it is no time."""
        return _datetime_s(value) if self.unit == "datetime" else _number_s(value, self.unit)

    def value(self, seconds: float) -> datetime | float:
        """What the field holds at that time."""
        return datetime.fromtimestamp(seconds, UTC) if self.unit == "datetime" else seconds * _PER_SECOND[self.unit]


def understood(field: str, indexes: dict[str, Json], payloads: Sequence[Payload], collection: str) -> UpdatedAt:
    """The field by its index and its sampled values.

    Raises:
        Refused: not indexed, not in the order of time, or without a time in it.
    """
    index = indexes.get(field)
    if index is None:
        listed = (
            ", ".join(f"{name!r} ({i['data_type']!r})" for name, i in sorted(indexes.items()) if i["data_type"] in INDEXED_AS) or "none"
        )
        raise Refused(
            f"Nothing was changed: {field!r} of {collection!r} has no payload index, so that what was written lately cannot be read by it. Indexes that could tell: "
            f"{listed}. Create one of type datetime, integer or float, or leave 'updated_at_field' out: full passes find everything."
        )
    if index["data_type"] not in INDEXED_AS:
        raise Refused(
            f"Nothing was changed: {field!r} of {collection!r} is indexed as {index['data_type']!r}, which has no order of time. 'updated_at_field' takes a field "
            "indexed as datetime, integer or float."
        )
    values = [read_path(payload, field) for payload in payloads]
    units: tuple[Unit, ...] = ("datetime",) if index["data_type"] == "datetime" else ("s", "ms", "us", "ns")
    counts = {unit: sum(_is_time(value, unit) for value in values) for unit in units}
    unit = max(counts, key=lambda u: counts[u])
    if not counts[unit] or sum(counts.values()) > counts[unit]:
        shown = ", ".join(repr(v)[:40] for v in values[:3])
        mixed = "times of different units" if counts[unit] else "no times"
        raise Refused(
            f"Nothing was changed: {field!r} holds {mixed} in {len(values)} sampled points of {collection!r} (for example {shown}). 'updated_at_field' needs RFC 3339 "
            "texts under a datetime index, or seconds, milliseconds, microseconds or nanoseconds since 1970; a counter of revisions tells no time."
        )
    return UpdatedAt(field=field, unit=unit, coverage=counts[unit] / len(values))


def since(newest_s: float, now_s: float) -> float:
    """From where the next pass reads: the newest time that the source held when this one began, less the slack.

    Rather the source's own clock than ours; but one point of the year 2099 must not hide the others.
    """
    return min(newest_s, now_s) - SLACK_S


def _is_time(value: object, unit: Unit) -> bool:
    return (_datetime_s(value) if unit == "datetime" else _number_s(value, unit)) is not None


def _datetime_s(value: object) -> float | None:
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


def _number_s(value: object, unit: Unit) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    seconds = value / _PER_SECOND[unit]
    return seconds if _LEAST <= seconds < _MOST else None

"""Which slice does each query of a comparison belong to? The payload field of the points that say so, read where the baseline searches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.comparison import Outcome
from qdrant_model_migration.domain.metrics import Run
from qdrant_model_migration.domain.points import PointId
from qdrant_model_migration.domain.queries import QuerySet
from qdrant_model_migration.domain.slices import members, points_asked, sliced, values_of
from qdrant_model_migration.domain.texts import read_path
from qdrant_model_migration.domain.untrusted import fenced
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.qdrant.gateway import Gateway

_PAGE = 256


def check_slice_field(field: str | None) -> None:
    """Refuse a field without a name."""
    if field is not None and not field.strip():
        raise Refused("Nothing was compared: 'slice_field' is blank; name a payload field, such as 'language' or 'metadata.source'.")


async def slices_of(
    gateway: Gateway,
    collection: Collection,
    field: str | None,
    chosen: QuerySet,
    baseline: Run,
    outcome: Outcome,
    *,
    k: int,
    margin: float,
    seed: int,
) -> dict[str, Any]:
    """What a comparison says of slices: `slices`, `worst_slice`, and further `notes`; nothing without a field."""
    if field is None:
        return {}
    points = points_asked(chosen.queries, baseline, k)
    wanted = list(dict.fromkeys(point for asked in points.values() for point in asked))
    values: dict[PointId, Sequence[str]] = {}
    for start in range(0, len(wanted), _PAGE):
        found = await gateway.points.payloads(collection.name, wanted[start : start + _PAGE], field)
        values |= {point: values_of(read_path(payload, field)) for point, payload in found.items()}
    if not any(values.values()):
        return {
            "notes": [
                f"No slices: none of the {len(wanted)} documents that say where a query belongs has a value in payload field {field!r}."
            ]
        }
    rows = outcome.per_query
    slices, worst, notes = await anyio.to_thread.run_sync(
        lambda: sliced(
            members(chosen.queries, points, values),
            rows.ids,
            rows.baseline,
            rows.candidate,
            is_judged=chosen.basis != "unjudged",
            margin=margin,
            looks=len(outcome.verdicts),
            seed=seed,
        )
    )
    return {
        "slices": [one.model_copy(update={"value": fenced(one.value)}) for one in slices],
        "worst_slice": None if worst is None else fenced(worst),
        "notes": notes,
    }

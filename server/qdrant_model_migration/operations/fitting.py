"""Can the stored vectors be mapped to a new model's, and how well? A sample is embedded, a map fitted on most of it and judged on the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import numpy as np

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.linear_map import RECALL_FLOOR, LinearMap, check_floor, fewest_pairs, fit_map
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.nearest import Rows
from qdrant_model_migration.domain.points import Point, tag, vector_problem
from qdrant_model_migration.embedders.base import Embedder
from qdrant_model_migration.embedders.retrying import embed_resilient
from qdrant_model_migration.errors import Interrupted, Refused
from qdrant_model_migration.operations.drawing import drawn_points
from qdrant_model_migration.operations.scratch import Report, say
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import MapReport

SAMPLE_SIZE = 10_000
SMALLEST_SAMPLE, LARGEST_SAMPLE = 400, 20_000
_WINDOW = 512


async def fit(
    gateway: Gateway,
    source: Collection,
    source_field: str,
    text_of: Callable[[Point], str | None],
    embedder: Embedder,
    *,
    distance: str | None = None,
    sample_size: int = SAMPLE_SIZE,
    seed: int = 0,
    k: int = 10,
    floor: float = RECALL_FLOOR,
    progress: Report | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[LinearMap, MapReport, list[str]]:
    """Draw points with their vectors and texts, embed the texts, fit and judge. Reads only.

    Args:
        gateway: Of the source.
        source: As described; its number of points decides how the sample is drawn.
        source_field: The dense field to map from; "" is the unnamed one.
        text_of: The text of a point, None where there is none.
        embedder: The new, dense model.
        distance: Of the new field; by default the new model's own.
        sample_size: Points drawn, from 400 to 20,000; of a smaller collection all.
        seed: Of draw, split and bootstrap.
        k: Neighbours looked at.
        floor: The least recall.
        progress: Told the stage and the count.
        should_stop: Asked between the steps.

    Returns:
        The map; what was measured; and the tagged ids of the points that it was not fitted on, for later checks.

    Raises:
        Refused: the sample's size, too few usable points, or a recall below the floor (with the number and its interval).
        Interrupted: `should_stop` became true.
        EmbeddingError: the model failed, other than on single texts.
    """
    if not SMALLEST_SAMPLE <= sample_size <= LARGEST_SAMPLE:
        raise Refused(
            f"Nothing was written: sample_size is {sample_size:,}; it must be from {SMALLEST_SAMPLE} to {LARGEST_SAMPLE:,}, for example {SAMPLE_SIZE:,}."
        )

    def check() -> None:
        if should_stop():
            raise Interrupted(
                "Fitting the linear map was interrupted: the driver was asked to stop. Nothing was written; resuming begins it anew."
            )

    sample = await _sampled(gateway, source, source_field, text_of, sample_size, seed, check, progress)
    _check_count(sample, source)
    new = await _embedded(sample, embedder, should_stop, progress)
    _check_count(sample, source)
    old = np.array(sample.rows, dtype=np.float32)
    used = distance or embedder.spec.distance
    await say(progress, "fitting the linear map", len(old), len(old))
    fitted = await anyio.to_thread.run_sync(
        lambda: fit_map(
            old,
            new,
            distance=used,
            normalizes=used == "Cosine" or embedder.spec.is_normalized,
            k=k,
            seed=seed,
            floor=floor,
            check=check,
        )
    )
    report = fitted.report.model_copy(update={"left_out": dict(sample.left_out)})
    check_floor(report, source.points)
    return fitted.map, report, [sample.ids[i] for i in fitted.held_out]


@dataclass(kw_only=True)
class _Sample:
    """Usable points: tagged id, text and stored vector of each; and how many were left out, by reason."""

    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def keep(self, places: list[int]) -> None:
        self.ids = [self.ids[i] for i in places]
        self.texts = [self.texts[i] for i in places]
        self.rows = [self.rows[i] for i in places]


async def _sampled(
    gateway: Gateway,
    source: Collection,
    source_field: str,
    text_of: Callable[[Point], str | None],
    size: int,
    seed: int,
    check: Callable[[], None],
    progress: Report | None,
) -> _Sample:
    sample = _Sample()
    expected = next((f.size for f in source.dense if f.name == source_field), None)
    known: set[str] = set()
    read = 0
    async for points in drawn_points(gateway, source, size, vectors=[source_field], seed=seed):
        check()
        for point in points:
            vector, text = point.vectors.get(source_field), text_of(point)
            problem = vector_problem(vector, expected)
            if problem is not None:
                sample.left_out[f"stored vector: {problem}"] += 1
            elif text is None:
                sample.left_out["no text"] += 1
            elif text in known:
                # A copy on the other side of the split would make held-out points no strangers to the map.
                sample.left_out["text of another sampled point"] += 1
            else:
                known.add(text)
                sample.ids.append(tag(point.id))
                sample.texts.append(text)
                sample.rows.append(np.array(vector, dtype=np.float32))
        read += len(points)
        await say(progress, "drawing a sample", min(size, source.points), read)
    return sample


async def _embedded(sample: _Sample, embedder: Embedder, should_stop: Callable[[], bool], progress: Report | None) -> Rows:
    """Vectors of the sample's texts; points whose text the model refuses leave the sample."""
    rows: list[Rows] = []
    places: list[int] = []
    window = max(_WINDOW, embedder.batch_size)
    for start in range(0, len(sample.texts), window):
        await say(progress, f"embedding a sample with {embedder.spec.name}", len(sample.texts), start)
        found, _ = await embed_resilient(embedder, sample.texts[start : start + window], Side.DOCUMENT, should_stop=should_stop)
        for i, row in enumerate(found):
            if row is not None:
                places.append(start + i)
                rows.append(row)
    if len(places) < len(sample.texts):
        sample.left_out["text refused by the model"] += len(sample.texts) - len(places)
        sample.keep(places)
    return np.array(rows, dtype=np.float32).reshape(len(rows), embedder.spec.dimensions or 0)


def _check_count(sample: _Sample, source: Collection) -> None:
    """Refuse before the next, costly step.

    Raises:
        Refused: fewer usable points than a map can be fitted and judged on.
    """
    usable = len(sample.rows)
    needed = fewest_pairs(len(sample.rows[0]) if usable else 0)
    if usable >= needed:
        return
    reasons = "; ".join(f"{reason}: {count:,}" for reason, count in sample.left_out.most_common(5))
    raise Refused(
        f"Nothing was written: {usable:,} of {usable + sample.left_out.total():,} sampled points of {source.name!r} ({source.points:,} points) can be used to fit a linear "
        f"map, and {needed:,} are needed.{f' Left out: {reasons}.' if reasons else ''} Raise sample_size, or embed everything with strategy 'new_collection': it is exact."
    )

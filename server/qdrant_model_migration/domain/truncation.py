"""What is left of vectors that are cut to their first numbers? The cut rows, and how many true neighbours they still find.

Matryoshka models put what matters most first (Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022); of any other
model the first numbers are as good as any, so the quality is measured, never assumed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qdrant_model_migration.domain.model import ModelSpec
from qdrant_model_migration.domain.nearest import Rows, lengths, nearest, recalls
from qdrant_model_migration.domain.significance import intervals
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.results import DimensionQuality

FEWEST_ROWS = 50
"""A sample below this says nothing about neighbours."""


def cut(rows: Rows, dimensions: int) -> tuple[Rows, NDArray[np.bool_]]:
    """The first numbers of each row, rescaled to the length of the whole row.

    For unit vectors that is renormalising. Other lengths are kept, because they count under Dot, Euclid and Manhattan.

    Args:
        rows: Shape (n, d).
        dimensions: How many numbers are kept, from 1 to d.

    Returns:
        Shape (n, dimensions); and shape (n,): whether the row has a usable cut. Where it has none (nothing but zeros is left, or a
        number is not finite) the row is all zeros.

    Raises:
        Refused: there are not so many dimensions.
    """
    size = rows.shape[1]
    if not 1 <= dimensions <= size:
        raise Refused(f"Nothing was changed: vectors of {size} dimensions cannot be cut to {dimensions}; it must be from 1 to {size}.")
    head = rows[:, :dimensions]
    with np.errstate(all="ignore"):
        whole, part = lengths(rows), lengths(head)
        made = (head * (whole / np.where(part > 0, part, 1.0))[:, None]).astype(np.float32)
        is_usable = (part > 0) & np.isfinite(whole) & np.isfinite(made).all(axis=1) & made.any(axis=1)
    made[~is_usable] = 0.0
    return made, is_usable


def is_cut_of(candidate: ModelSpec, whole: ModelSpec) -> bool:
    """Whether a model is another one asked for fewer dimensions: `provider:model@n` of the same provider and model."""
    base = whole.name.removesuffix(f"@{whole.dimensions}")
    return candidate.name == f"{base}@{candidate.dimensions}" and (candidate.dimensions or 0) < (whole.dimensions or 0)


def dimensions_to_try(size: int) -> list[int]:
    """Sizes worth measuring below `size`: powers of two and three quarters of them, from 64 and a twelfth of the size on.

    For example 64, 128, 256, 384, 512 for 768; 256 to 2,048 for 3,072. Of small vectors a half.
    """
    powers = [2**i for i in range(6, 13)]
    wanted = {*powers, *(p * 3 // 4 for p in powers if p >= 512)}
    return sorted(d for d in wanted if size / 12 <= d < size) or ([size // 2] if size > 1 else [])


def quality_by_dimension(
    rows: Rows, distance: str, dimensions: Sequence[int], *, k: int = 10, queries: int = 200, seed: int = 0
) -> list[DimensionQuality]:
    """How many of a vector's true k nearest neighbours its cut still finds among the cuts of the others, for each size.

    Rows of the sample serve as queries, each left out of its own answer. Truth is the exact top k by the whole vectors. A row
    without a usable cut is never found, and finds nothing.

    Args:
        rows: Shape (n, d): a sample of stored vectors; rows of zeros or with numbers that are not finite are left out.
        distance: Qdrant's name of it.
        dimensions: The sizes to try, each from 1 to d.
        k: How many neighbours.
        queries: At most so many rows are drawn as queries.
        seed: Of the draw and of the bootstrap.

    Returns:
        One entry a size, in their order; intervals are 95 % percentile bootstrap intervals over the queries. The smaller the sample,
        the easier its neighbours are to find.

    Raises:
        Refused: too few usable rows, or a size that cannot be cut to.
    """
    with np.errstate(all="ignore"):
        norms = lengths(rows)
    rows = rows[np.isfinite(norms) & (norms > 0)]
    if len(rows) < max(FEWEST_ROWS, k + 1):
        raise Refused(
            f"Nothing was measured: {len(rows)} usable vectors are too few to judge shorter ones by; at least {max(FEWEST_ROWS, k + 1)} are needed."
        )
    if not dimensions:
        return []
    drawn = np.sort(np.random.default_rng(seed).choice(len(rows), size=min(queries, len(rows)), replace=False)).astype(np.intp)
    truth = nearest(rows, rows[drawn], distance, k, own=drawn)
    values = np.zeros((len(drawn), len(dimensions)))
    for column, size in enumerate(dimensions):
        shorter, is_usable = cut(rows, size)
        found = nearest(shorter, shorter[drawn], distance, k, own=drawn, is_findable=is_usable)
        values[:, column] = np.where(is_usable[drawn], recalls(truth, found), 0.0)
    bounds = intervals(values, seed=seed)
    return [
        DimensionQuality(
            dimensions=size,
            recall_at_k=float(values[:, column].mean()),
            ci_low=float(bounds[column, 0]),
            ci_high=float(bounds[column, 1]),
            k=k,
            sample=len(rows),
        )
        for column, size in enumerate(dimensions)
    ]

"""Which linear map leads from the old model's vectors to the new model's, and what is it worth? Fitted on pairs, judged on others.

Two kinds are fitted, both on centred pairs and in double precision: orthogonal Procrustes (Schoenemann, "A generalized solution of
the orthogonal Procrustes problem", Psychometrika 31, 1966), a rotation and a scale that keep angles; and ridge regression (Hoerl
and Kennard, "Ridge regression", Technometrics 12, 1970), which may also weigh directions. Mapping between the spaces of two models
instead of embedding anew is the idea of "Drift-Adapter" (2025): 95 to 99 % of the recall in its own paper, far less for other pairs of
models, hence the measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qdrant_model_migration.domain.nearest import Rows, lengths, nearest, recalls, unit
from qdrant_model_migration.domain.significance import intervals
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.results import MapReport

Kind = Literal["procrustes", "ridge"]
Double = NDArray[np.float64]

RECALL_FLOOR = 0.90
"""A map that loses more than a tenth of the true neighbours is refused, unless another floor is asked for.

On Cranfield, maps between outputs of one encoder reach 0.90 to 0.95 (its int8 to its fp32 weights: 0.94), another pooling 0.80, an
encoder cut to two of six layers 0.61 (tests/qdrant/test_cranfield_maps.py).
"""
HELD_OUT_SHARE = 0.2
FEWEST_HELD_OUT, MOST_HELD_OUT = 200, 2_000
FEWEST_FITTED = 200
RIDGE_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Penalties tried, in units of the mean variance of the old vectors times their number."""
MOST_VALIDATED = 500
_BLOCK = 4_096


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearMap:
    """`row @ matrix + offset`, then scaled to length 1 if `normalizes`."""

    matrix: Rows
    """Shape (d_old, d_new)."""
    offset: Rows
    """Shape (d_new,)."""
    normalizes: bool
    kind: Kind

    @property
    def dimensions(self) -> tuple[int, int]:
        """Of the vectors it takes and of those it makes."""
        return int(self.matrix.shape[0]), int(self.matrix.shape[1])

    @cached_property
    def digest(self) -> str:
        """32 hex digits; equal for maps of the same numbers, whatever machine made them."""
        found = sha256(f"{self.kind} {self.dimensions} {self.normalizes}\n".encode())
        found.update(self.matrix.astype("<f4").tobytes())
        found.update(self.offset.astype("<f4").tobytes())
        return found.hexdigest()[:32]

    def apply(self, rows: Rows) -> Rows:
        """Map rows of shape (n, d_old) to shape (n, d_new), block by block. A row that leads to zero stays zero.

        In double precision: what comes out depends neither on the block nor on the machine, beyond its last digit.
        """
        matrix = self._matrix
        made = np.empty((len(rows), matrix.shape[1]), dtype=np.float32)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK].astype(np.float64) @ matrix + self.offset
            if self.normalizes:
                norms = np.linalg.norm(block, axis=1, keepdims=True)
                block /= np.where(norms > 0, norms, 1.0)
            made[start : start + len(block)] = block
        return made

    @cached_property
    def _matrix(self) -> Double:
        return self.matrix.astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The better map, what it is worth, and on which pairs it was judged."""

    map: LinearMap
    report: MapReport
    held_out: NDArray[np.intp]
    """Positions of the pairs it was not fitted on, ascending."""


def fewest_pairs(old_dimensions: int) -> int:
    """Below this nothing is fitted: at least half as many pairs as old dimensions, and as many held out as an interval needs."""
    return FEWEST_HELD_OUT + max(FEWEST_FITTED, old_dimensions // 2)


def held_out_count(pairs: int) -> int:
    return min(MOST_HELD_OUT, max(FEWEST_HELD_OUT, round(pairs * HELD_OUT_SHARE)))


def fit_procrustes(old: Rows, new: Rows, *, normalizes: bool) -> LinearMap:
    """The rotation and the one scale that bring the centred old rows nearest to the centred new ones.

    Between unlike dimensions the rotation is semi-orthogonal: into more, an exact embedding; into fewer, the projection of the greatest
    agreement (trace), which is what the singular vectors give. The scale (Schoenemann and Carroll, "Fitting one matrix to another under
    choice of a central dilation and a rigid motion", Psychometrika 35, 1970) weighs the centred part against the offset: models differ
    in how far their vectors spread around their mean.
    """
    sums = _Sums.of(old, new)
    left, strengths, right = np.linalg.svd(sums.cross, full_matrices=False)
    spread = float(np.trace(sums.gram))
    scale = float(strengths.sum()) / spread if spread > 0 else 1.0
    return _map(scale * (left @ right), sums, normalizes=normalizes, kind="procrustes")


def fit_ridge(old: Rows, new: Rows, penalty: float, *, normalizes: bool) -> LinearMap:
    """Least squares with a penalty on the squared coefficients of `penalty` times the mean of the old rows' squared deviations."""
    return _ridge(_Sums.of(old, new), penalty, normalizes=normalizes)


def fit_map(
    old: Rows,
    new: Rows,
    *,
    distance: str,
    normalizes: bool,
    k: int = 10,
    seed: int = 0,
    floor: float = RECALL_FLOOR,
    check: Callable[[], None] = lambda: None,
) -> Fitted:
    """Fit both kinds on one part of the pairs and keep the one with the better recall on the other.

    The queries are the exact new vectors of the held-out points, the pool the held-out points alone: what the exact new vectors find
    there against what the mapped vectors find, the query itself left out. A pool so small is easier than the whole collection, and
    document vectors stand in for those of real queries.

    Args:
        old: Shape (n, d_old), the stored vectors; finite, none of them zero, one a distinct text.
        new: Shape (n, d_new), the new model's vectors of the same points.
        distance: Under which the new vectors will be searched.
        normalizes: Whether the new vectors have unit length.
        k: How many neighbours.
        seed: Of the split and of the bootstrap.
        floor: Recorded in the report; nothing is refused here (see `check_floor`).
        check: Called between the steps; may raise to give up.

    Raises:
        Refused: too few pairs.
    """
    pairs, old_size = old.shape
    needed = fewest_pairs(old_size)
    if pairs < needed:
        raise Refused(
            f"Nothing was written: {pairs:,} pairs of old and new vectors are too few to fit and judge a linear map from {old_size} dimensions; "
            f"at least {needed:,} points with different texts and usable vectors are needed. Raise sample_size, or embed everything with strategy "
            "'new_collection': for so few points it is exact and cheap."
        )
    order = np.random.default_rng(seed).permutation(pairs)
    count = held_out_count(pairs)
    held_out, fitted = np.sort(order[:count]), order[count:]
    if distance == "Cosine":
        # The old ones stay as they are stored: so they are mapped.
        new = unit(new)
    maps = [
        fit_procrustes(old[fitted], new[fitted], normalizes=normalizes),
        _best_ridge(old, new, fitted, distance=distance, normalizes=normalizes, k=k, check=check),
    ]
    check()
    exact = new[held_out]
    mapped = [found.apply(old[held_out]) for found in maps]
    values = [recall_of_mapped(exact, rows, distance, k) for rows in mapped]
    best = int(np.argmax([v.mean() for v in values]))
    bounds = intervals(values[best][:, None], seed=seed)[0]
    chosen = maps[best]
    report = MapReport(
        kind=chosen.kind,
        dimensions=chosen.dimensions,
        pairs=pairs,
        held_out=count,
        k=k,
        recall=float(values[best].mean()),
        ci_low=float(bounds[0]),
        ci_high=float(bounds[1]),
        rejected_recall=float(values[1 - best].mean()),
        mean_cosine=float((unit(exact) * unit(mapped[best])).sum(axis=1).mean()),
        floor=floor,
        seed=seed,
        digest=chosen.digest,
    )
    return Fitted(map=chosen, report=report, held_out=held_out.astype(np.intp))


def recall_of_mapped(exact: Rows, mapped: Rows, distance: str, k: int) -> Double:
    """Recall@k of each row as a query by its exact vector, shape (n,): exact against mapped vectors of the same points."""
    own = np.arange(len(exact), dtype=np.intp)
    is_findable = lengths(mapped) > 0
    return recalls(nearest(exact, exact, distance, k, own=own), nearest(mapped, exact, distance, k, own=own, is_findable=is_findable))


def measured(report: MapReport, points: int) -> str:
    """What was measured, in a sentence or two for a person."""
    other = "ridge" if report.kind == "procrustes" else "procrustes"
    return (
        f"Recall@{report.k} of the mapped against exact new vectors is {report.recall:.3f} (95 % interval {report.ci_low:.3f} to {report.ci_high:.3f}; "
        f"{report.kind} map, fitted on {report.pairs - report.held_out:,} pairs; {other}: {report.rejected_recall:.3f}), measured among "
        f"{report.held_out:,} held-out points with their own vectors as queries: among all {points:,} points neighbours lie closer and recall will be lower."
    )


def check_floor(report: MapReport, points: int) -> None:
    """Refuse a map that finds too few of the true neighbours. The point value decides; the interval is told.

    Raises:
        Refused: the measured recall is below the floor.
    """
    if report.is_acceptable:
        return
    reach = " Its interval reaches the floor, so another sample could decide otherwise." if report.ci_high >= report.floor else ""
    raise Refused(
        f"Nothing was written: no linear map leads well enough from the stored vectors to the new model's. {measured(report, points)} "
        f"The floor is {report.floor:.2f}.{reach} Embedding everything with strategy 'new_collection' is exact."
    )


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """All that either fit needs of the pairs, added up in double precision by blocks so that no copy of the rows is made."""

    old_mean: Double
    new_mean: Double
    gram: Double
    """Centred old rows, transposed, times themselves: (d_old, d_old)."""
    cross: Double
    """Centred old rows, transposed, times the centred new rows: (d_old, d_new)."""

    @classmethod
    def of(cls, old: Rows, new: Rows) -> _Sums:
        old_mean, new_mean = old.mean(axis=0, dtype=np.float64), new.mean(axis=0, dtype=np.float64)
        gram, cross = np.zeros((old.shape[1], old.shape[1])), np.zeros((old.shape[1], new.shape[1]))
        for start in range(0, len(old), _BLOCK):
            part = old[start : start + _BLOCK] - old_mean
            gram += part.T @ part
            cross += part.T @ (new[start : start + _BLOCK] - new_mean)
        return cls(old_mean=old_mean, new_mean=new_mean, gram=gram, cross=cross)


def _ridge(sums: _Sums, penalty: float, *, normalizes: bool) -> LinearMap:
    size = len(sums.gram)
    # Without any variance every direction is as good: the penalty alone keeps the system solvable.
    weight = penalty * float(np.trace(sums.gram)) / size or 1.0
    matrix = np.asarray(np.linalg.solve(sums.gram + weight * np.eye(size), sums.cross), dtype=np.float64)
    return _map(matrix, sums, normalizes=normalizes, kind="ridge")


def _best_ridge(
    old: Rows, new: Rows, fitted: NDArray[np.intp], *, distance: str, normalizes: bool, k: int, check: Callable[[], None]
) -> LinearMap:
    """The penalty that finds most neighbours in a part of the pairs to be fitted on; then fitted on all of these."""
    count = min(MOST_VALIDATED, len(fitted) // 4)
    validated, others = fitted[:count], fitted[count:]
    sums = _Sums.of(old[others], new[others])
    scores = []
    for penalty in RIDGE_GRID:
        check()
        made = _ridge(sums, penalty, normalizes=normalizes).apply(old[validated])
        scores.append(float(recall_of_mapped(new[validated], made, distance, k).mean()))
    return fit_ridge(old[fitted], new[fitted], RIDGE_GRID[int(np.argmax(scores))], normalizes=normalizes)


def _map(matrix: Double, sums: _Sums, *, normalizes: bool, kind: Kind) -> LinearMap:
    return LinearMap(
        matrix=matrix.astype(np.float32),
        offset=(sums.new_mean - sums.old_mean @ matrix).astype(np.float32),
        normalizes=normalizes,
        kind=kind,
    )

"""Are maps recovered where there are some, refused where there are none, and judged as the test judges them?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdrant_model_migration.domain.linear_map import (
    MOST_HELD_OUT,
    RIDGE_GRID,
    LinearMap,
    check_floor,
    fewest_pairs,
    fit_map,
    fit_procrustes,
    fit_ridge,
    held_out_count,
)
from qdrant_model_migration.domain.map_records import MapPart, assembled, disassembled
from qdrant_model_migration.errors import Interrupted, MigrationError, Refused
from qdrant_model_migration.operations.deriving import Deriver
from qdrant_model_migration.results import MapReport

Matrix = npt.NDArray[np.float32]
Double = npt.NDArray[np.float64]


def rotation(rows: int, columns: int, seed: int) -> Double:
    """Semi-orthogonal, uniformly drawn."""
    drawn = np.random.default_rng(seed).normal(size=(max(rows, columns), min(rows, columns)))
    found: Double = np.linalg.qr(drawn)[0]
    return found if rows >= columns else found.T


def rows_of(count: int, size: int, seed: int, *, is_unit: bool = True) -> Matrix:
    drawn = np.random.default_rng(seed).normal(size=(count, size)) * (1 + np.arange(size)) ** -0.5 + 0.3
    if is_unit:
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn.astype(np.float32)


def recall_by_hand(exact: Matrix, mapped: Matrix, k: int = 10) -> float:
    """Cosine; by full sorts, one query at a time."""
    e = exact.astype(float) / np.linalg.norm(exact.astype(float), axis=1, keepdims=True)
    m = mapped.astype(float) / np.linalg.norm(mapped.astype(float), axis=1, keepdims=True)
    shares = []
    for i, query in enumerate(e):
        true = [j for j in np.argsort(-(e @ query), kind="stable") if j != i][:k]
        found = [j for j in np.argsort(-(m @ query), kind="stable") if j != i][:k]
        shares.append(len(set(true) & set(found)) / k)
    return float(np.mean(shares))


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 24), st.integers(2, 24), st.integers(0, 2**32 - 1))
def test_a_rotation_is_recovered_exactly(old_size: int, new_size: int, seed: int) -> None:
    """Into more dimensions it always can be; into fewer, where the old rows lie in so many."""
    inner = min(old_size, new_size)
    core = rows_of(120, inner, seed, is_unit=False).astype(float)
    old = (core @ rotation(inner, old_size, seed + 1)).astype(np.float32)
    new = (core @ rotation(inner, new_size, seed + 2) + 0.7).astype(np.float32)
    found = fit_procrustes(old, new, normalizes=False)
    assert found.dimensions == (old_size, new_size)
    assert found.apply(old) == pytest.approx(new, abs=2e-4)
    # One rotation of scale 1: the lengths of the distances between rows are kept.
    products = found.matrix.astype(float).T @ found.matrix if old_size >= new_size else found.matrix.astype(float) @ found.matrix.T
    assert products == pytest.approx(np.eye(inner), abs=2e-4)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 16), st.integers(2, 16), st.sampled_from(RIDGE_GRID), st.integers(0, 2**32 - 1))
def test_ridge_is_the_closed_form(old_size: int, new_size: int, penalty: float, seed: int) -> None:
    """Least squares on rows extended by the penalty, solved by another routine."""
    old, new = rows_of(90, old_size, seed), rows_of(90, new_size, seed + 1)
    found = fit_ridge(old, new, penalty, normalizes=False)
    x, y = old.astype(float), new.astype(float)
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    weight = penalty * (a**2).sum() / old_size
    wanted = np.linalg.lstsq(
        np.vstack([a, np.sqrt(weight) * np.eye(old_size)]), np.vstack([b, np.zeros((old_size, new_size))]), rcond=None
    )[0]
    assert found.matrix == pytest.approx(wanted, abs=1e-5)
    assert found.apply(old) == pytest.approx(a @ wanted + y.mean(axis=0), abs=1e-5)


def test_blocks_make_no_difference_and_lengths_become_one(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = rows_of(300, 12, 1), rows_of(300, 20, 2)
    found = fit_ridge(old, new, 0.01, normalizes=True)
    whole = found.apply(old)
    assert np.linalg.norm(whole, axis=1) == pytest.approx(np.ones(300), abs=1e-6)
    monkeypatch.setattr("qdrant_model_migration.domain.linear_map._BLOCK", 7)
    assert (found.apply(old) == whole).all()
    assert fit_ridge(old, new, 0.01, normalizes=True).matrix == pytest.approx(found.matrix, abs=1e-6)
    assert found.apply(old[:0]).shape == (0, 20)


def test_a_row_that_leads_to_zero_stays_zero() -> None:
    nothing = LinearMap(matrix=np.zeros((3, 2), dtype=np.float32), offset=np.zeros(2, dtype=np.float32), normalizes=True, kind="ridge")
    assert nothing.apply(np.ones((4, 3), dtype=np.float32)).tolist() == [[0, 0]] * 4


def noisy_pair(count: int, noise: float, seed: int = 5) -> tuple[Matrix, Matrix]:
    """Unit vectors of 24 dimensions, and the same rotated into 32 with noise."""
    old = rows_of(count, 24, seed)
    new = old.astype(float) @ rotation(24, 32, seed)
    new += np.random.default_rng(seed + 1).normal(size=new.shape) * noise
    return old, (new / np.linalg.norm(new, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_the_recall_is_that_of_points_the_map_was_not_fitted_on(noise: float) -> None:
    old, new = noisy_pair(600, noise)
    fitted = fit_map(old, new, distance="Cosine", normalizes=True, seed=4)
    report = fitted.report
    assert len(set(fitted.held_out.tolist())) == report.held_out == 200
    assert (report.pairs, report.k, report.dimensions, report.digest) == (600, 10, (24, 32), fitted.map.digest)
    exact = new[fitted.held_out]
    mapped = (old[fitted.held_out].astype(float) @ fitted.map.matrix + fitted.map.offset).astype(np.float32)
    assert report.recall == pytest.approx(recall_by_hand(exact, mapped), abs=0.003)
    assert report.ci_low <= report.recall <= report.ci_high
    assert report.rejected_recall <= report.recall
    # Fitted again on the rest alone, it is the same map: nothing of the held-out points went in.
    rest = np.setdiff1d(np.arange(600), fitted.held_out)
    again = (
        [fit_procrustes(old[rest], new[rest], normalizes=True)]
        if report.kind == "procrustes"
        else [fit_ridge(old[rest], new[rest], penalty, normalizes=True) for penalty in RIDGE_GRID]
    )
    assert any(np.allclose(fitted.map.matrix, one.matrix, atol=1e-5) for one in again)
    if noise == 0:
        assert report.recall == 1.0
        assert report.mean_cosine == pytest.approx(1.0, abs=1e-5)


def test_each_kind_wins_where_it_fits() -> None:
    """A rotation with few noisy pairs is best fitted as one; stretched directions need ridge."""
    old, new = noisy_pair(420, 0.05)
    assert fit_map(old, new, distance="Cosine", normalizes=True).report.kind == "procrustes"
    stretched = old.astype(float) @ (rotation(24, 24, 9) * np.geomspace(0.05, 5, 24)[:, None])
    report = fit_map(old, stretched.astype(np.float32), distance="Euclid", normalizes=False).report
    assert report.kind == "ridge"
    assert report.recall > 0.99 > report.rejected_recall


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid", "Manhattan"])
def test_unrelated_vectors_are_refused_with_the_number(distance: str) -> None:
    report = fit_map(rows_of(500, 16, 1), rows_of(500, 16, 77), distance=distance, normalizes=distance == "Cosine").report
    assert report.recall < 0.3
    assert not report.is_acceptable
    with pytest.raises(Refused) as refusal:
        check_floor(report, 12_345)
    text = str(refusal.value)
    assert text.startswith("Nothing was written")
    for part in (
        f"{report.recall:.3f}",
        f"{report.ci_low:.3f} to {report.ci_high:.3f}",
        "200 held-out",
        "12,345",
        "0.90",
        "new_collection",
    ):
        assert part in text
    assert "another sample" not in text


def test_the_point_value_decides_and_the_interval_is_told() -> None:
    report = fit_map(*noisy_pair(600, 0.02), distance="Cosine", normalizes=True).report
    check_floor(report.model_copy(update={"recall": 0.90, "ci_low": 0.85}), 1)
    with pytest.raises(Refused, match="Its interval reaches the floor"):
        check_floor(report.model_copy(update={"recall": 0.8999, "ci_high": 0.91}), 1)


def test_too_few_pairs_are_refused_with_both_numbers() -> None:
    assert fewest_pairs(384) == 400
    assert fewest_pairs(1024) == 712
    with pytest.raises(Refused, match=r"399 pairs .* from 24 dimensions; at least 400"):
        fit_map(*noisy_pair(399, 0.0), distance="Cosine", normalizes=True)
    assert fit_map(*noisy_pair(400, 0.0), distance="Cosine", normalizes=True).report.held_out == 200


def test_a_fifth_is_held_out_within_bounds() -> None:
    assert [held_out_count(n) for n in (400, 1_000, 5_000, 10_000, 20_000)] == [200, 200, 1_000, MOST_HELD_OUT, MOST_HELD_OUT]


def test_equal_vectors_do_not_crash() -> None:
    old = np.ones((400, 8), dtype=np.float32)
    report = fit_map(old, rows_of(400, 8, 3), distance="Cosine", normalizes=True).report
    assert report.recall < 0.5


def test_fitting_can_be_given_up_between_the_steps() -> None:
    def stop() -> None:
        raise Interrupted("stop")

    with pytest.raises(Interrupted):
        fit_map(*noisy_pair(400, 0.0), distance="Cosine", normalizes=True, check=stop)


def some_map(rows: int, columns: int, seed: int = 0) -> LinearMap:
    drawn = np.random.default_rng(seed).normal(size=(rows + 1, columns)).astype(np.float32)
    return LinearMap(matrix=drawn[:-1], offset=drawn[-1], normalizes=True, kind="ridge")


@given(st.integers(1, 9), st.integers(1, 9), st.integers(4, 400))
def test_records_give_the_same_map_back(rows: int, columns: int, part_bytes: int) -> None:
    found = some_map(rows, columns)
    index, parts = disassembled(found, part_bytes=part_bytes)
    again = assembled(index, parts)
    assert again.digest == found.digest == index.digest
    assert (again.matrix == found.matrix).all()
    assert (again.offset == found.offset).all()
    assert (again.normalizes, again.kind) == (True, "ridge")
    assert all(part.rows * columns * 4 <= max(part_bytes, columns * 4) for part in parts)


def test_the_digest_tells_maps_apart() -> None:
    one = some_map(4, 3)
    others = [
        some_map(4, 3, seed=1),
        LinearMap(matrix=one.matrix, offset=one.offset, normalizes=False, kind="ridge"),
        LinearMap(matrix=one.matrix, offset=one.offset, normalizes=True, kind="procrustes"),
        LinearMap(matrix=one.matrix.reshape(2, 6), offset=one.offset, normalizes=True, kind="ridge"),
    ]
    assert len({one.digest, *(o.digest for o in others)}) == 5


def test_missing_or_changed_parts_are_no_map() -> None:
    index, parts = disassembled(some_map(6, 3), part_bytes=24)
    assert len(parts) == 4
    with pytest.raises(MigrationError, match="1 of 4 parts are missing"):
        assembled(index, [*parts[:2], None, parts[3]])
    with pytest.raises(MigrationError, match="do not give the digest"):
        assembled(index, [parts[1], parts[0], *parts[2:]])
    with pytest.raises(MigrationError, match="do not give the digest"):
        assembled(index, [MapPart(rows=2, data=parts[0].data[:8]), *parts[1:]])


def test_a_report_cannot_be_changed() -> None:
    report = fit_map(*noisy_pair(400, 0.0), distance="Cosine", normalizes=True).report
    assert MapReport.model_validate_json(report.model_dump_json()) == report
    with pytest.raises(ValueError, match="frozen"):
        report.recall = 1.0  # type: ignore[misc]


def test_the_recall_that_is_told_is_that_of_the_vectors_that_are_written() -> None:
    """Stored vectors of any length, as a dot product leaves them, are mapped as they are; the new field may be searched by cosine."""
    random = np.random.default_rng(0)
    directions = rows_of(900, 24, seed=1)
    old = (directions * random.uniform(0.5, 20.0, size=(900, 1))).astype(np.float32)
    new = np.tanh(directions @ rotation(24, 24, seed=2) * 3).astype(np.float32)
    found = fit_map(old, new, distance="Cosine", normalizes=True)
    written = Deriver.linear_map(found.map).derive(old[found.held_out].tolist())
    assert None not in written
    assert found.report.recall == pytest.approx(recall_by_hand(new[found.held_out], np.array(written, dtype=np.float32)), abs=0.002)

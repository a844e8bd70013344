"""Is the slice that loses found, named only where it can be believed, and is everything else counted?"""

from __future__ import annotations

import numpy as np
import pytest

from qdrant_model_migration.domain.metrics import Query, Run
from qdrant_model_migration.domain.points import PointId
from qdrant_model_migration.domain.significance import MIN_QUERIES, intervals
from qdrant_model_migration.domain.slices import MAX_SLICES, members, points_asked, sliced, values_of


@pytest.mark.parametrize(
    ("value", "slices"),
    [
        ("en", ["en"]),
        (" two\n words ", ["two words"]),
        (7, ["7"]),
        (True, ["true"]),
        (["a", "b", "a", 1.5], ["a", "b"]),
        (1.5, []),
        (None, []),
        ({"a": 1}, []),
        ("", []),
        ("x" * 500, ["x" * 80]),
    ],
)
def test_values_make_slices(value: object, slices: list[str]) -> None:
    assert values_of(value) == slices


def test_a_judged_query_belongs_to_its_documents_and_another_to_what_the_baseline_finds() -> None:
    queries = [Query(id="j", text="x", relevant={1: 2, 2: 1, 3: 0}), Query(id="u", text="x"), Query(id="n", text="x")]
    base = Run(model="a", found={"j": [9], "u": [4, 5, 6, 3], "n": []})
    asked = points_asked(queries, base, 3)
    assert asked == {"j": [1, 2], "u": [4, 5, 6], "n": []}
    values: dict[PointId, list[str]] = {1: ["en"], 2: ["de", "en"], 3: ["fr"], 4: ["it"], 5: ["es"], 6: ["es"]}
    assert members(queries, asked, values) == {"j": ["en", "de"], "u": ["es"], "n": []}


def test_the_slice_that_loses_is_named_with_an_interval_for_all_looks() -> None:
    random = np.random.default_rng(0)
    ids = [f"q{i}" for i in range(90)]
    belongs = {q: [("en", "de", "fr")[i % 3]] for i, q in enumerate(ids)}
    belongs["q0"], belongs["q1"] = ["en", "de"], []
    base = random.uniform(0.4, 0.6, 90)
    candidate = base + random.normal(0, 0.05, 90)
    candidate[1::3] -= 0.3
    found, worst, notes = sliced(belongs, ids, base, candidate, is_judged=True, margin=0.01, looks=2, seed=0)
    assert found[0].value == worst == "de"
    assert {s.value: s.queries for s in found} == {"en": 30, "de": 30, "fr": 30}
    assert found[0].verdict == "worse"
    rows = [i for i, q in enumerate(ids) if "de" in belongs[q]]
    difference = (candidate - base)[rows]
    # Three slices of either of two candidates: six looks.
    low, high = intervals(difference[:, None], seed=0, confidence=1 - 0.05 / 6)[0]
    assert (found[0].difference, found[0].ci_low, found[0].ci_high) == pytest.approx((difference.mean(), low, high))
    text = " ".join(notes)
    assert "1 of 90 queries belong to several slices" in text
    assert "1 of 90 queries belong to no slice" in text
    assert "The worst of several looks worse than it is" in text


def test_small_slices_are_shown_but_not_named() -> None:
    ids = [f"q{i}" for i in range(30)]
    belongs = {q: ["rare"] if i < MIN_QUERIES - 1 else ["common"] for i, q in enumerate(ids)}
    base = np.full(30, 0.5)
    candidate = base - np.array([0.5 if belongs[q] == ["rare"] else 0.0 for q in ids])
    found, worst, notes = sliced(belongs, ids, base, candidate, is_judged=True, margin=0.01, looks=1, seed=0)
    rare, common = found
    assert (rare.value, rare.queries, rare.difference, rare.ci_low, rare.verdict) == ("rare", 9, -0.5, None, "inconclusive")
    assert (worst, common.verdict) == ("common", "equivalent")
    assert any("1 of the slices shown have fewer than 10 queries" in note for note in notes)
    _, none, notes = sliced({q: [q] for q in ids}, ids, base, candidate, is_judged=True, margin=0.01, looks=1, seed=0)
    assert none is None
    assert any("none can be called the worst" in note for note in notes)


def test_many_values_are_bounded_and_counted() -> None:
    ids = [f"q{i}" for i in range(500)]
    belongs = {q: [f"v{i % 40}" if i % 2 else "all"] for i, q in enumerate(ids)}
    found, _, notes = sliced(belongs, ids, np.ones(500), np.ones(500), is_judged=True, margin=0.01, looks=1, seed=0)
    assert len(found) == MAX_SLICES
    assert max(found, key=lambda s: s.queries).value == "all"
    assert any(f"The field has 21 values among these queries; the {MAX_SLICES}" in note for note in notes)


def test_unjudged_slices_measure_difference_only() -> None:
    ids = [f"q{i}" for i in range(40)]
    belongs = {q: ["a" if i < 20 else "b"] for i, q in enumerate(ids)}
    shares = np.array([0.2 if i < 20 else 0.9 for i in range(40)])
    found, worst, notes = sliced(belongs, ids, np.ones(40), shares, is_judged=False, margin=0.01, looks=1, seed=0)
    assert (worst, {s.verdict for s in found}) == ("a", {"inconclusive"})
    assert "what the baseline finds" in notes[0]

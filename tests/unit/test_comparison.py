"""Are metrics those of the library, intervals those of a bootstrap, and verdicts no more certain than stated?"""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, Qrel, R, ScoredDoc, nDCG

from qdrant_model_migration.domain.comparison import Outcome, check_arguments, compared, overlap_histogram
from qdrant_model_migration.domain.metrics import Query, Run, depth, gate_metric, measured, metric_names, overlap
from qdrant_model_migration.domain.recipe import Gate
from qdrant_model_migration.domain.significance import MIN_QUERIES, decide, intervals, needed_queries
from qdrant_model_migration.errors import Refused


def made_up(queries: int, documents: int, seed: int) -> tuple[list[Query], np.ndarray]:
    """Graded judgements, and a score for each query and document that follows the grades loosely."""
    random = np.random.default_rng(seed)
    grades = random.choice([0, 0, 0, 0, 0, 0, 0, 1, 2, 4], size=(queries, documents))
    grades[:, 0] = 1
    scores = grades * 0.3 + random.normal(size=grades.shape)
    asked = [
        Query(id=f"q{i}", text=f"question {i}", relevant={j: int(g) for j, g in enumerate(row) if g > 0}) for i, row in enumerate(grades)
    ]
    return asked, scores


def run_of(model: str, queries: list[Query], scores: np.ndarray, limit: int = 10) -> Run:
    return Run(model=model, found={q.id: [int(j) for j in np.argsort(-row)[:limit]] for q, row in zip(queries, scores, strict=True)})


def test_metrics_equal_ir_measures_on_full_rankings() -> None:
    """The library gets every score, unsorted and uncut, and its own string ids."""
    queries, scores = made_up(60, 80, 1)
    values = measured(queries, run_of("a", queries, scores), ["ndcg@10", "recall@10", "mrr@10", "ndcg@5"])
    qrels = [Qrel(q.id, f"d{j}", g) for q in queries for j, g in q.relevant.items()]
    docs = [ScoredDoc(q.id, f"d{j}", float(s)) for q, row in zip(queries, scores, strict=True) for j, s in enumerate(row)]
    expected = ir_measures.calc_aggregate([nDCG @ 10, R @ 10, RR @ 10, nDCG @ 5], qrels, docs)
    assert values.mean(axis=0) == pytest.approx([expected[m] for m in (nDCG @ 10, R @ 10, RR @ 10, nDCG @ 5)], abs=1e-6)


def test_intervals_agree_with_an_independent_bootstrap() -> None:
    """A plain loop over another generator's resamples."""
    random = np.random.default_rng(3)
    differences = np.column_stack([random.normal(0.02, 0.2, 225), random.choice([-0.5, 0.0, 0.0, 1.0], 225)])
    found = intervals(differences, seed=0)
    legacy = np.random.RandomState(99)
    for column in range(2):
        means = sorted(float(np.mean(legacy.choice(differences[:, column], 225))) for _ in range(10_000))
        assert found[column] == pytest.approx([means[250], means[9_749]], abs=0.005)


def test_intervals_are_the_same_for_the_same_seed_and_bounded_in_memory() -> None:
    differences = np.random.default_rng(0).normal(size=(10_000, 1))
    assert np.array_equal(intervals(differences, seed=5, resamples=1_000), intervals(differences, seed=5, resamples=1_000))


def test_model_against_itself_is_equivalent() -> None:
    queries, scores = made_up(40, 50, 2)
    run = run_of("a", queries, scores)
    outcome = compared(queries, run, [Run(model="a (#2)", found=run.found)], basis="judged", k=10, margin=0.01, gate=None, seed=0)
    assert (outcome.verdict, outcome.overlap, outcome.changes) == ("equivalent", 1.0, [])


def test_null_experiment_is_called_better_or_worse_at_most_at_the_stated_rate() -> None:
    """Two noisy versions of one model, 100 seeds, the whole comparison with no margin: 5 % stated, and chance may add two standard deviations."""
    wrong = 0
    for seed in range(100):
        queries, scores = made_up(50, 40, seed)
        grades = np.array([[query.relevant.get(j, 0) for j in range(40)] for query in queries])
        other = grades * 0.3 + np.random.default_rng(10_000 + seed).normal(size=scores.shape)
        base, candidate = run_of("m", queries, scores), run_of("m (#2)", queries, other)
        outcome = compared(queries, base, [candidate], basis="judged", k=10, margin=0.0, gate=None, seed=seed)
        wrong += outcome.verdict in {"better", "worse"}
    assert wrong <= 9


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.01, 0.01, "equivalent"),
        (0.001, 0.009, "equivalent"),
        (0.001, 0.05, "better"),
        (-0.05, -0.001, "worse"),
        (-0.05, 0.05, "inconclusive"),
    ],
)
def test_verdict_follows_from_interval_and_margin(low: float, high: float, verdict: str) -> None:
    assert decide(low, high, 0.01) == verdict


def test_inconclusive_verdict_says_how_many_queries_would_decide() -> None:
    queries, scores = made_up(30, 40, 4)
    other = scores + np.random.default_rng(5).normal(size=scores.shape) * 0.5
    outcome = compared(
        queries, run_of("a", queries, scores), [run_of("b", queries, other)], basis="judged", k=10, margin=0.001, gate=None, seed=0
    )
    assert outcome.verdict == "inconclusive"
    needed = outcome.counts.needed["b"]
    assert needed is not None
    assert needed > 30
    assert any(f"about {needed:,} judged queries would be needed" in note for note in outcome.notes)


def test_needed_sample_size_matches_the_width_of_the_interval() -> None:
    """With that many queries a normal interval just clears zero."""
    differences = np.random.default_rng(0).normal(0.02, 0.3, 200)
    needed = needed_queries(differences, 0.001)
    assert needed is not None
    assert 1.96 * differences.std(ddof=1) / np.sqrt(needed) == pytest.approx(abs(differences.mean()), rel=0.01)
    assert needed_queries(np.zeros(20), 0.01) is None


def test_few_queries_give_no_verdict_and_pass_no_gate() -> None:
    queries, scores = made_up(MIN_QUERIES - 1, 40, 4)
    run = run_of("a", queries, scores)
    gate = Gate(metric="recall@10", margin=0.5)
    outcome = compared(queries, run, [Run(model="b", found=run.found)], basis="judged", k=10, margin=0.01, gate=gate, seed=0)
    assert (outcome.verdict, outcome.gate) == ("inconclusive", "fail")
    assert any("too few" in note for note in outcome.notes)


def test_finding_nothing_at_all_is_no_equivalence() -> None:
    """Judgements of another collection would otherwise call any two models equivalent and pass any gate."""
    queries = [Query(id=str(i), text="x", relevant={999: 1}) for i in range(50)]
    run = Run(model="a", found={q.id: [1, 2] for q in queries})
    gate = Gate(metric="ndcg", margin=0.1)
    outcome = compared(queries, run, [Run(model="b", found=run.found)], basis="judged", k=10, margin=0.01, gate=gate, seed=0)
    assert (outcome.verdict, outcome.gate) == ("inconclusive", "fail")
    assert any("No model finds" in note for note in outcome.notes)


@pytest.mark.parametrize(("margin", "expected"), [(0.9, "pass"), (0.01, "fail")])
def test_gate_passes_only_when_the_whole_interval_loses_at_most_its_margin(margin: float, expected: str) -> None:
    queries, scores = made_up(60, 40, 6)
    worse = np.random.default_rng(7).normal(size=scores.shape)
    gate = Gate(metric="nDCG@5", margin=margin)
    outcome = compared(
        queries, run_of("a", queries, scores), [run_of("b", queries, worse)], basis="judged", k=10, margin=0.01, gate=gate, seed=0
    )
    low = next(m.ci_low for m in outcome.metrics if m.metric == "ndcg@5" and m.model == "b")
    assert low is not None
    assert outcome.gate == expected == ("pass" if low >= -margin else "fail")


def test_gate_metric_is_completed_and_unknown_ones_are_refused() -> None:
    assert gate_metric(Gate(metric="MRR", margin=0), 10) == "mrr@10"
    assert metric_names(10, Gate(metric="recall@20", margin=0)) == ["ndcg@10", "recall@10", "mrr@10", "recall@20"]
    assert depth(10, Gate(metric="recall@20", margin=0)) == 20
    for bad in ("precision@10", "ndcg@0", "ndcg@1000", ""):
        with pytest.raises(Refused, match="Gate metric"):
            gate_metric(Gate(metric=bad, margin=0), 10)


def test_unjudged_queries_measure_difference_and_say_so() -> None:
    queries = [Query(id=str(i), text=f"question {i}") for i in range(20)]
    one = Run(model="a", found={q.id: [1, 2, 3, 4] for q in queries})
    other = Run(model="b", found={q.id: [1, 2, 3, 4] if i else [1, 7, 8, 9] for i, q in enumerate(queries)})
    outcome = compared(queries, one, [other], basis="unjudged", k=4, margin=0.01, gate=None, seed=0)
    assert (outcome.verdict, outcome.verdicts, outcome.primary_metric) == ("inconclusive", {"b": "inconclusive"}, "overlap@4")
    assert outcome.overlap == pytest.approx((19 + 0.25) / 20)
    (shared,) = outcome.metrics
    assert (shared.metric, shared.model, shared.value, shared.difference) == ("overlap@4", "b", outcome.overlap, None)
    assert shared.ci_low is not None
    assert shared.ci_low < shared.value < 1 == shared.ci_high
    assert [(c.query.id, c.overlap, c.difference) for c in outcome.changes] == [("0", 0.25, None)]
    assert "not which model is better" in outcome.notes[0]


def test_each_candidate_has_a_verdict_and_a_share_of_the_baselines_hits() -> None:
    queries = [Query(id=str(i), text="x", relevant={1: 1}) for i in range(40)]
    base = Run(model="a", found={q.id: [1, 2] for q in queries})
    same = Run(model="same", found=base.found)
    bad = Run(model="bad", found={q.id: [3, 2] for q in queries})
    outcome = compared(queries, base, [bad, same], basis="judged", k=2, margin=0.01, gate=None, seed=0)
    assert (outcome.verdict, outcome.verdicts) == ("equivalent", {"bad": "worse", "same": "equivalent"})
    shares = {m.model: (m.value, m.ci_low, m.ci_high) for m in outcome.metrics if m.metric == "overlap@2"}
    assert shares == {"bad": (0.5, 0.5, 0.5), "same": (1, 1, 1)}
    nothing = Run(model="none", found={})
    outcome = compared(queries, nothing, [Run(model="also", found={})], basis="judged", k=2, margin=0.01, gate=None, seed=0)
    assert not [m for m in outcome.metrics if m.metric == "overlap@2"]
    assert any("No model finds a single relevant document" in note for note in outcome.notes)


def test_gate_fails_without_judgements() -> None:
    queries = [Query(id=str(i), text="x") for i in range(20)]
    run = Run(model="a", found={q.id: [1] for q in queries})
    gate = Gate(metric="ndcg", margin=0.1)
    outcome = compared(queries, run, [Run(model="b", found=run.found)], basis="unjudged", k=10, margin=0.01, gate=gate, seed=0)
    assert outcome.gate == "fail"


def test_failed_queries_and_queries_without_relevant_documents_are_counted() -> None:
    queries, scores = made_up(20, 40, 8)
    queries.append(Query(id="none", text="nothing is relevant", relevant={3: 0}))
    scores = np.vstack([scores, scores[:1]])
    whole = run_of("a", queries, scores)
    holed = Run(model="b", found={k: v for k, v in whole.found.items() if k != "q0"}, ties=2)
    outcome = compared(queries, whole, [holed], basis="judged", k=10, margin=0.01, gate=None, seed=0)
    text = " ".join(outcome.notes)
    assert "1 of 21 queries could not be embedded by 'b'" in text
    assert "1 of 21 queries have no relevant document" in text
    assert "In 2 of 21 queries 'b'" in text
    counts = outcome.counts
    assert (counts.asked, counts.judged, counts.without_relevant) == (21, 20, 1)
    assert (counts.failed, counts.tied, counts.equal) == ({"a": 0, "b": 1}, {"a": 0, "b": 2}, {"b": 19})
    value = {m.model: m.value for m in outcome.metrics if m.metric == "recall@10"}
    assert value["b"] < value["a"]
    assert [c.query.id for c in outcome.changes] == ["q0"]


def test_losses_are_shown_before_gains_and_both_have_a_place() -> None:
    queries = [Query(id=str(i), text="x", relevant={1: 1}) for i in range(12)]
    one = Run(model="a", found={q.id: [1] if i < 6 else [2] for i, q in enumerate(queries)})
    other = Run(model="b", found={q.id: [2] if i < 6 else [1] for i, q in enumerate(queries)})
    outcome = compared(queries, one, [other], basis="judged", k=10, margin=0.01, gate=None, seed=0)
    assert [c.difference for c in outcome.changes] == [-1.0, -1.0, -1.0, 1.0, 1.0]


def test_several_candidates_widen_the_intervals_and_the_best_leads() -> None:
    queries, scores = made_up(80, 40, 9)
    good = scores + np.array([[q.relevant.get(j, 0) for j in range(40)] for q in queries])
    base, best, bad = (
        run_of(n, queries, s) for n, s in (("a", scores), ("b", good), ("c", np.random.default_rng(1).normal(size=scores.shape)))
    )
    alone = compared(queries, base, [best], basis="judged", k=10, margin=0.01, gate=None, seed=0)
    both = compared(queries, base, [bad, best], basis="judged", k=10, margin=0.01, gate=None, seed=0)
    assert (both.leading, both.verdict) == ("b", "better")

    def width(outcome: Outcome) -> float:
        found = next(m for m in outcome.metrics if m.model == "b" and m.metric == "ndcg@10")
        return (found.ci_high or 0.0) - (found.ci_low or 0.0)

    assert width(both) > width(alone)
    assert any("'c' is worse" in note for note in both.notes)


def test_generated_queries_rest_on_mrr() -> None:
    queries, scores = made_up(20, 40, 10)
    run = run_of("a", queries, scores)
    outcome = compared(queries, run, [Run(model="b", found=run.found)], basis="generated", k=10, margin=0.01, gate=None, seed=0)
    assert (outcome.primary_metric, outcome.verdict) == ("mrr@10", "equivalent")


@pytest.mark.parametrize(("one", "other", "share"), [([1, 2], [2, 3], 0.5), ([], [], None), ([], [1], 0.0), ([1], [1, 2], 0.5)])
def test_overlap(one: list[int], other: list[int], share: float | None) -> None:
    assert overlap(one, other, 10) == share


@pytest.mark.parametrize(("k", "margin"), [(0, 0.01), (101, 0.01), (10, -0.1), (10, float("nan")), (10, 1.0)])
def test_k_and_margin_out_of_range_are_refused(k: int, margin: float) -> None:
    with pytest.raises(Refused, match="Nothing was compared"):
        check_arguments(k, margin)


def test_the_histogram_counts_every_query_that_found_anything_once() -> None:
    """By exact fractions: a share that is a step's lower bound belongs to that step, whatever the floats say."""
    shares = [0.0, 0.1, 0.3, 0.29, 0.7, 0.9, 1.0, 1.0, None]
    assert overlap_histogram(shares, 10) == [1, 1, 1, 1, 0, 0, 0, 1, 0, 1, 2]
    assert overlap_histogram([0.0, 0.25, 0.5, 0.75, 1.0, 1 / 3], 4) == [1, 2, 1, 1, 1]
    assert overlap_histogram([hits / 100 for hits in range(101)], 100) == [10] * 10 + [1]
    assert overlap_histogram([None], 1) == [0, 0]
    queries, scores = made_up(30, 40, 4)
    other = scores + np.random.default_rng(9).normal(scale=0.5, size=scores.shape)
    one, two = run_of("a", queries, scores), run_of("b", queries, other)
    outcome = compared(queries, one, [two], basis="judged", k=10, margin=0.01, gate=None, seed=0)
    common = [len(set(one.found[q.id]) & set(two.found[q.id])) for q in queries]
    assert outcome.histogram == [common.count(n) for n in range(11)]

"""Does the page of a report tell what the ledger holds, in charts that agree with the numbers, and nothing that a text could turn into markup?"""

from __future__ import annotations

import re
from typing import Any

import pytest

from qdrant_model_migration.domain.ranges import Range
from qdrant_model_migration.domain.recipe import Cutover, Endpoint, Moved
from qdrant_model_migration.domain.records import EventRecord, FailedRecord
from qdrant_model_migration.domain.throughput import Stretch
from qdrant_model_migration.operations.report import Facts, as_markdown
from qdrant_model_migration.operations.report_page import as_page
from qdrant_model_migration.results import ChangedQuery, Comparison, Hit, Lag, Metric, Slice, SwapOutcome, WriteGap
from tests.pages import Node, read_page, rows_of
from tests.unit.test_cutover import comparison, verification, verified

HOSTILE = "</td></svg></style><script>alert(1)</script><img src=x onerror='alert(2)'>\" onload=\"alert(3) &lt;b&gt; ]]> --> \u202e\x1b[31m\n# head"
SHOWN = HOSTILE.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b").replace("\n", "\\n")
"""What a reader sees of it: all of it, in one line, and what would be hidden written out."""

METRICS = [
    Metric(metric="ndcg@10", model="old", value=0.193),
    Metric(metric="recall@10", model="old", value=0.41),
    Metric(metric="ndcg@10", model="new", value=0.374, difference=0.181, ci_low=0.155, ci_high=0.207, p_value=0.0001),
    Metric(metric="recall@10", model="new", value=0.4, difference=-0.01, ci_low=-0.03, ci_high=0.012, p_value=0.31),
    Metric(metric="overlap@10", model="new", value=0.62, ci_low=0.6, ci_high=0.64),
]
OVERLAPS = [1, 0, 0, 2, 3, 4, 5, 6, 3, 1, 0]
STRETCHES = [
    Stretch(stage="backfilling", end=1_790_000_010.0, seconds=10.0, points=1_000),
    Stretch(stage="backfilling", end=1_790_000_030.0, seconds=20.0, points=500),
]


def compared(**changes: Any) -> Comparison:
    values = {"verdict": "better", "primary_metric": "ndcg@10", "metrics": METRICS, "overlap_at_k": 0.62, "overlap_histogram": OVERLAPS}
    return comparison(**{**values, **changes})


def facts(stretches: list[Stretch] | None = None, **changes: Any) -> Facts:
    return Facts(
        migration=verified(**changes),
        ranges=[Range(number=0, read=1500, written=1490, skipped=8, failed=2, tokens=70_000)],
        failed=[],
        events=[EventRecord(at="2026-01-01T12:00:00+00:00", event="created", text="new_collection")],
        stretches=STRETCHES if stretches is None else stretches,
    )


def page_of(found: Facts) -> Node:
    return read_page(as_page(found))


def charts_of(page: Node) -> list[str]:
    return [chart.one("title").text for chart in page.all("svg")]


def test_the_charts_agree_with_the_tables_beside_them_and_those_with_the_comparison() -> None:
    page = page_of(facts(comparison=compared()))
    assert charts_of(page) == ["Differences of the metrics", "Overlap@10 of the queries", "Throughput: the backfill"]
    pairs = page.all("div", "pair")
    differences, overlaps, speed = (rows_of(pair.one("table")) for pair in pairs)
    assert differences == [
        ["ndcg@10", "0.193", "0.374", "+0.181", "+0.155 to +0.207", "0.0001"],
        ["recall@10", "0.410", "0.400", "-0.010", "-0.030 to +0.012", "0.3100"],
    ]
    drawn = {group.one("text", "label").text: group for group in pairs[0].one("svg").all("g")}
    assert [drawn[row[0]].one("text", "number").text for row in differences] == [row[3] for row in differences]
    assert "margin of ±0.01" in pairs[0].one("figcaption").text
    assert [row[1] for row in overlaps] == [str(count) for count in OVERLAPS]
    assert [t.text for t in pairs[1].one("svg").all("text", "number")] == [str(count) for count in OVERLAPS if count]
    assert [row[1:] for row in speed] == [["10.0", "1,000", "100.0"], ["20.0", "500", "25.0"]]
    assert "50.0 points a second over 30 s" in page.text


def test_what_was_not_measured_is_said_and_not_drawn() -> None:
    page = page_of(facts(stretches=[]))
    assert charts_of(page) == []
    assert "No comparison was made" in page.text
    assert "No throughput was recorded" in page.text
    unjudged = page_of(
        facts(comparison=compared(is_judged=False, verdict="inconclusive", primary_metric="overlap@10", metrics=METRICS[-1:]))
    )
    assert charts_of(unjudged) == ["Overlap@10 of the queries", "Throughput: the backfill"]
    assert "No difference of quality was measured" in unjudged.text
    assert "recorded without it" in page_of(facts(comparison=compared(overlap_histogram=[]))).text
    assert "neither model found anything" in page_of(facts(comparison=compared(overlap_histogram=[0] * 11))).text


def test_each_stage_has_a_chart_of_its_own() -> None:
    filling = [s.model_copy(update={"stage": "filling", "end": s.end + 9_000}) for s in STRETCHES]
    assert charts_of(page_of(facts(stretches=[*STRETCHES, *filling]))) == ["Throughput: the backfill", "Throughput: filling the new field"]


def test_the_page_tells_what_the_markdown_tells() -> None:
    moved = Moved(alias="docs", previous="docs-1", current="docs-2")
    outcome = SwapOutcome(alias="docs", previous="docs-1", current="docs-2", write_gap=WriteGap(carried_over=7, superseded=2))
    found = facts(
        comparison=compared(),
        lag=Lag(missing=1, extra=2, changed=3, at="2026-01-01"),
        cutover=Cutover(moves=(moved,), at="2026-01-02", conflicts=("i:7", "u:x"), returned=WriteGap(carried_over=4, unresolved=2)),
        accepted=("the gate failed",),
        outcomes={"docs-1a2b3c": outcome.model_dump(mode="json"), "docs-3c4d5e": {"deleted": [], "kept": []}},
    )
    found = Facts(**{**vars(found), "failed": [FailedRecord(point_id="i:9", reason="no text", is_stored=True)]})
    page, text = page_of(found), as_markdown(found)
    lines = [re.sub(r"^#* *(?:- )?", "", line.strip()) for line in text.splitlines()]
    told = [line for line in lines if line and not line.startswith(("2026-01-01T12:00", "i:9: "))]
    assert len(told) > 15
    for line in told:
        assert line in page.text, line
    assert rows_of(page.all("table")[-2]) == [["2026-01-01T12:00:00+00:00", "created", "new_collection"]]
    assert rows_of(page.all("table")[-1]) == [["i:9", "no text"]]
    assert "- plan docs-1a2b3c, docs to docs-2: 7 carried over, 2 superseded by newer writes, 0 unresolved" in text
    assert "- on the way back: 4 carried over, 0 superseded by newer writes, 2 unresolved" in text
    assert "docs-3c4d5e" not in text


def test_texts_of_others_stay_texts_wherever_they_stand() -> None:
    hit = Hit(point_id=HOSTILE, text=HOSTILE, is_relevant=True)
    found = compared(
        baseline=HOSTILE,
        candidates=[HOSTILE + "2"],
        query_source=HOSTILE,
        notes=[HOSTILE],
        primary_metric=HOSTILE,
        metrics=[METRICS[0], METRICS[2].model_copy(update={"metric": HOSTILE})],
        most_changed=[ChangedQuery(query=HOSTILE, difference=-1.0, overlap=0.5, baseline=[hit], candidate=[hit])],
        slices=[Slice(value=HOSTILE, queries=3, baseline=0.1, candidate=0.2, difference=0.1)],
        at=HOSTILE,
    )
    plain = facts(
        comparison=found,
        error=HOSTILE,
        strategy=HOSTILE,
        source=Endpoint(collection=HOSTILE),
        target=Endpoint(collection=HOSTILE + "-new"),
        text_field=HOSTILE,
        accepted=(HOSTILE,),
        verification=verification(is_complete=False, problems=[HOSTILE], at=HOSTILE),
        cutover=Cutover(moves=(Moved(alias=HOSTILE, previous=HOSTILE, current=HOSTILE),), at=HOSTILE, conflicts=(HOSTILE,)),
        outcomes={HOSTILE: SwapOutcome(alias=HOSTILE, previous=HOSTILE, current=HOSTILE).model_dump(mode="json")},
    )
    hostile = Facts(
        migration=plain.migration.model_copy(update={"id": HOSTILE}),
        ranges=plain.ranges,
        failed=[FailedRecord(point_id=HOSTILE, reason=HOSTILE, is_stored=False)],
        events=[EventRecord(at=HOSTILE, event=HOSTILE, text=HOSTILE)],
        stretches=plain.stretches,
    )
    page = page_of(hostile)
    assert page.text.count(SHOWN) >= 25
    assert not set(page.text) & {"\u202e", "\x1b"}
    assert not page.all("script")
    assert len(page.all("style")) == 1
    assert page.one("h1").text == page.all("title")[0].text == f"Migration {SHOWN}"
    # A name is cut in a chart, and nowhere else.
    assert page.one("text", "label").text == SHOWN[:25] + "…"


@pytest.mark.parametrize("verdict", ["better", "worse", "equivalent", "inconclusive", None])
def test_verdicts_are_told_at_a_glance(verdict: str | None) -> None:
    glance = page_of(facts(comparison=compared(verdict=verdict))).one("dl")
    values = dict(zip((dt.text for dt in glance.all("dt")), (dd.text for dd in glance.all("dd")), strict=True))
    assert values["new model"] == (verdict or "no verdict")
    assert (values["phase"], values["points written"], values["target"], values["conflicts"]) == ("verified", "1,490", "complete", "0")

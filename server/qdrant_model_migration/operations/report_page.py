"""How does a migration look afterwards? One HTML page with its charts in it: nothing is fetched, nothing runs, and no text of others becomes markup."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from qdrant_model_migration import __version__
from qdrant_model_migration.domain import charts
from qdrant_model_migration.domain.cutover import comparison_line
from qdrant_model_migration.domain.markup import Markup, element
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.throughput import Stage, Stretch
from qdrant_model_migration.operations.report import (
    MOST_ACCOUNTED,
    Facts,
    backfill_line,
    carried_items,
    conflicts_line,
    conflicts_of,
    cutover_items,
    cutover_lines,
    described,
    model_line,
    verification_lines,
)
from qdrant_model_migration.operations.report_style import STYLE
from qdrant_model_migration.results import ChangedQuery, Comparison, Hit

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The page can fetch and run nothing, whatever gets into it."""
STAGES: dict[Stage, str] = {"backfilling": "The backfill", "filling": "Filling the new field"}
_VERDICT_SIDE = {"better": "up", "worse": "down"}


def as_page(facts: Facts) -> str:
    """The report as a page of its own."""
    migration = facts.migration
    title = f"Migration {migration.id}"
    conflicts = conflicts_of(migration)
    body = [
        element("h1", {}, title),
        element("p", {}, described(migration)),
        element("p", {}, model_line(migration)),
        *([element("p", {}, f"Stopped by an error: {migration.error}")] if migration.error else []),
        _at_a_glance(facts),
        *_comparison(migration),
        element("h2", {}, "Backfill"),
        element("p", {}, backfill_line(facts)),
        *_throughput(facts.stretches),
        element("h2", {}, "Verification"),
        *_paragraphs(verification_lines(migration)),
        element("h2", {}, "Cutover"),
        *_paragraphs(cutover_lines(migration)),
        *_list(cutover_items(migration)),
        *([element("p", {}, conflicts_line(migration)), *_list(conflicts)] if conflicts else []),
        element("h2", {}, "Writes carried over"),
        *(_list(carried_items(migration)) or _paragraphs(["None."])),
        element("h2", {}, "Events"),
        *_events(facts),
        *_accounted(facts),
        element(
            "footer",
            {"class": "quiet"},
            f"Made by qdrant-model-migration {__version__} from the ledger as it was at {_time(datetime.now(UTC))}. Texts between «mark: and :mark» are "
            "your data, cut.",
        ),
    ]
    head = [
        element("meta", {"charset": "utf-8"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": Markup(POLICY)}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"name": "color-scheme", "content": "light dark"}),
        element("title", {}, title),
        element("style", {}, Markup(STYLE)),
    ]
    page = element("html", {"lang": "en"}, element("head", {}, *head), element("body", {}, element("main", {}, *body)))
    return f"<!doctype html>\n{page}\n"


def _at_a_glance(facts: Facts) -> Markup:
    migration, found = facts.migration, facts.migration.comparison
    verification = migration.verification
    proven = "not verified" if verification is None else "complete" if verification.is_complete else "not complete"
    cards = [
        ("phase", migration.phase.value.replace("_", " "), ""),
        ("points written", f"{sum(r.written for r in facts.ranges):,}", ""),
        ("target", proven, "" if verification is None else "up" if verification.is_complete else "down"),
        (
            "new model",
            "not compared" if found is None else found.verdict or "no verdict",
            _VERDICT_SIDE.get((found and found.verdict) or "", ""),
        ),
        ("accounted points", f"{len(facts.failed) if verification is None else verification.accounted:,}", ""),
        ("conflicts", f"{len(conflicts_of(migration)):,}", ""),
    ]
    return element(
        "dl",
        {"class": "facts"},
        *(element("div", {}, element("dt", {}, name), element("dd", {"class": side}, value)) for name, value, side in cards),
    )


# --- comparison


def _comparison(migration: Migration) -> list[Markup]:
    found = migration.comparison
    parts = [element("h2", {}, "Comparison"), element("p", {}, comparison_line(found))]
    if found is None:
        return parts
    parts.append(
        element(
            "p",
            {"class": "quiet"},
            f"{found.baseline} against {', '.join(found.candidates)}, {found.documents:,} documents, queries {found.query_source}, {found.at}.",
        )
    )
    parts += _differences(found)
    parts += _overlap(found)
    parts += _changed(found)
    parts += _slices(found)
    if found.notes:
        parts += [element("h3", {}, "How to read it"), *_list(found.notes)]
    return parts


def _differences(found: Comparison) -> list[Markup]:
    several = len(found.candidates) > 1
    effects, rows = [], []
    baseline = {m.metric: m.value for m in found.metrics if m.model == found.baseline}
    for m in found.metrics:
        if m.difference is None or m.ci_low is None or m.ci_high is None:
            continue
        label = f"{m.metric} {m.model}" if several else m.metric
        effects.append(charts.Effect(label=label, value=m.difference, low=m.ci_low, high=m.ci_high))
        old = baseline.get(m.metric)
        p = "" if m.p_value is None else f"{m.p_value:.4f}"
        rows.append(
            (
                label,
                "" if old is None else f"{old:.3f}",
                f"{m.value:.3f}",
                f"{m.difference:+.3f}",
                f"{m.ci_low:+.3f} to {m.ci_high:+.3f}",
                p,
            )
        )
    if not effects:
        return _paragraphs(
            ["No difference of quality was measured: without judged or generated queries there is nothing to draw against zero."]
        )
    caption = f"New minus old, with 95 % intervals; the band is the margin of ±{found.margin:g}"
    return [
        _figure(
            caption,
            charts.forest("differences", "Differences of the metrics", effects, found.margin),
            _table("The same in numbers", ("metric", "old", "new", "difference", "95 % interval", "p"), rows),
        )
    ]


def _overlap(found: Comparison) -> list[Markup]:
    counts = found.overlap_histogram
    if not sum(counts):
        why = "neither model found anything" if counts else "this comparison was recorded without it; compare_models records it anew"
        return _paragraphs([f"How much the results of each query overlap is not shown: {why}."])
    mean = "" if found.overlap_at_k is None else f", {100 * found.overlap_at_k:.0f} % on the mean"
    rows = [(charts.share(place, counts), f"{count:,}") for place, count in enumerate(counts)]
    axis = f"share of the first {found.k} results in common, %"
    return [
        _figure(
            f"How many of the first {found.k} results old and new have in common{mean}",
            charts.histogram("overlap", f"Overlap@{found.k} of the queries", counts, axis),
            _table("The same in numbers", ("in common", "queries"), rows),
        )
    ]


def _changed(found: Comparison) -> list[Markup]:
    if not found.most_changed:
        return []
    return [element("h3", {}, "Queries that changed most"), *(_query(found, one) for one in found.most_changed)]


def _query(found: Comparison, one: ChangedQuery) -> Markup:
    change = "" if one.difference is None else f"{found.primary_metric} {one.difference:+.3f}, "
    sides = (("old", one.baseline), ("new", one.candidate))
    return element(
        "section",
        {"class": "query"},
        element("h3", {}, one.query),
        element("p", {"class": "quiet"}, f"{change}{100 * one.overlap:.0f} % of the results in common"),
        element(
            "div",
            {"class": "sides"},
            *(element("div", {}, element("strong", {}, name), element("ol", {}, *map(_hit, hits))) for name, hits in sides),
        ),
    )


def _hit(hit: Hit) -> Markup:
    relevant = " (relevant)" if hit.is_relevant else ""
    return element("li", {}, f"{hit.point_id}{relevant}: {hit.text}")


def _slices(found: Comparison) -> list[Markup]:
    if not found.slices:
        return []
    rows = [
        (
            s.value,
            f"{s.queries:,}",
            f"{s.baseline:.3f}",
            f"{s.candidate:.3f}",
            f"{s.difference:+.3f}",
            "" if s.ci_low is None or s.ci_high is None else f"{s.ci_low:+.3f} to {s.ci_high:+.3f}",
        )
        for s in found.slices
    ]
    columns = ("slice", "queries", "old", "new", "difference", "interval")
    return [element("h3", {}, "By slice, the worst first"), _table(f"{found.primary_metric} by slice", columns, rows)]


# --- backfill and audit trail


def _throughput(stretches: Sequence[Stretch]) -> list[Markup]:
    parts: list[Markup] = []
    for stage, caption in STAGES.items():
        found = [s for s in stretches if s.stage == stage]
        if found:
            rows = [
                (_time(datetime.fromtimestamp(s.end, UTC)), f"{s.seconds:,.1f}", f"{s.points:,}", f"{s.points_per_second:,.1f}")
                for s in found
            ]
            parts.append(
                _figure(
                    f"{caption}: points a second (dashed: the mean{'; dotted: an interruption' if _has_breaks(found) else ''})",
                    charts.throughput(f"throughput-{stage}", f"Throughput: {caption.lower()}", found),
                    _table("The same in numbers", ("until", "seconds", "points", "points/s"), rows),
                )
            )
    return parts or _paragraphs(["No throughput was recorded, so there is no chart of it."])


def _has_breaks(found: Sequence[Stretch]) -> bool:
    return any(charts.is_interrupted(one, other) for one, other in itertools.pairwise(found))


def _events(facts: Facts) -> list[Markup]:
    if not facts.events:
        return _paragraphs(["None."])
    return [_table("The audit trail", ("at", "event", "what"), [(e.at, e.event, e.text) for e in facts.events])]


def _accounted(facts: Facts) -> list[Markup]:
    if not facts.failed:
        return []
    shown = facts.failed[:MOST_ACCOUNTED]
    caption = f"{len(shown):,} of {len(facts.failed):,} points that have no vector of the new model"
    return [element("h2", {}, "Accounted points"), _table(caption, ("point", "reason"), [(f.point_id, f.reason) for f in shown])]


# --- parts of a page


def _figure(caption: str, chart: Markup, table: Markup) -> Markup:
    return element("div", {"class": "pair"}, element("figure", {}, element("figcaption", {}, caption), chart), table)


_NUMBERS = frozenset(
    {"old", "new", "difference", "95 % interval", "interval", "p", "queries", "seconds", "points", "points/s"},
)


def _table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """A table that scrolls by itself where it is long or wide, by keyboard too."""

    def cell(column: str, value: str) -> Markup:
        kind = "n" if column in _NUMBERS else "t" if column in ("at", "until") else ""
        return element("td", {"class": kind} if kind else {}, value)

    head = [element("th", {"scope": "col", **({"class": "n"} if c in _NUMBERS else {})}, c) for c in columns]
    body = [element("tr", {}, *(cell(c, value) for c, value in zip(columns, row, strict=True))) for row in rows]
    table = element(
        "table", {}, element("caption", {}, caption), element("thead", {}, element("tr", {}, *head)), element("tbody", {}, *body)
    )
    return element("div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": caption}, table)


def _paragraphs(lines: Iterable[str]) -> list[Markup]:
    return [element("p", {}, line) for line in lines]


def _list(items: Sequence[str]) -> list[Markup]:
    return [element("ul", {}, *(element("li", {}, item) for item in items))] if items else []


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")

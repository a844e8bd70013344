"""Which parts of an answer does a person want to see in a terminal? Tables and paragraphs, by the kind of the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from qdrant_model_migration.cli_names import in_commands
from qdrant_model_migration.results import (
    CompareResult,
    ConfigDifference,
    CreateTargetResult,
    FinishResult,
    GuidanceResult,
    InspectResult,
    RecommendResult,
    RepairResult,
    Result,
    StatusResult,
    SwapResult,
    Verification,
    VerifyResult,
)

Part = Table | str
MOST_EVENTS = 5
MOST_QUERIES = 3


def tables(result: Result) -> Iterator[Part]:
    """Beyond summary and warnings."""
    for kind, show in _SHOWN.items():
        if isinstance(result, kind):
            yield from show(result)


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[Table]:
    """A table, unless it would be empty."""
    is_headed = any(columns[:2])
    table = Table(title=title, title_justify="left", title_style="bold", show_header=is_headed, box=box.SIMPLE_HEAD if is_headed else None)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    if table.row_count:
        yield table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def _listed(title: str, texts: Sequence[str]) -> Iterator[str]:
    if texts:
        yield "\n".join([f"{title}:", *(f"  - {text}" for text in texts)])


def _bytes(size: int | None) -> str:
    if size is None:
        return "-"
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _inspect(found: InspectResult) -> Iterator[Part]:
    yield from _table(
        "Collections", ["collection", "points", "aliases"], [(c.name, c.points, c.aliases or None) for c in found.collections]
    )
    yield from _table(
        "Migrations",
        ["migration", "phase", "source", "target", "strategy", "error"],
        [(m.migration_id, m.phase, m.source, m.target, m.strategy, m.error) for m in found.migrations],
    )
    one = found.collection
    if one is None:
        return
    vectors = [(v.name or "(unnamed)", v.kind, v.size, v.distance, v.datatype, v.quantization) for v in [*one.vectors, *one.sparse_vectors]]
    yield from _table("Vectors", ["name", "kind", "size", "distance", "type", "quantization"], vectors)
    texts = [(t.field, f"{t.coverage:.0%}", f"{t.mean_chars:.0f}", t.p95_tokens, t.example) for t in one.text_fields]
    yield from _table("Text fields", ["field", "coverage", "mean chars", "p95 tokens", "example (data of the points)"], texts)
    yield from _table("Payload indexes", ["field", "type"], [(i.field, i.type) for i in one.payload_indexes])
    facts = [
        ("aliases", one.aliases or None),
        ("framework", one.framework),
        ("model", one.provenance.model if one.provenance else None),
        ("status", one.health.status),
        ("segments", one.health.segments),
        ("RAM", _bytes(one.estimates.ram_bytes)),
        ("disk", _bytes(one.estimates.disk_bytes)),
    ]
    yield from _table("About it", ["", ""], facts)


def _recommend(found: RecommendResult) -> Iterator[Part]:
    rows = [
        (
            r.strategy,
            r.is_feasible,
            r.card.points,
            r.card.tokens,
            None if r.card.seconds is None else f"{r.card.seconds:,.0f} s",
            None if r.card.cost_usd is None else f"{r.card.cost_usd:,.2f} USD",
            _bytes(r.card.disk_bytes),
            "; ".join(r.reasons if r.is_feasible else r.refusals),
        )
        for r in found.recommendations
    ]
    yield from _table("Strategies, best first", ["strategy", "feasible", "points", "tokens", "time", "cost", "disk", "why"], rows)
    best = next((r for r in found.recommendations if r.is_feasible), None)
    if found.source_match is not None and found.source_match.is_match:
        match = found.source_match
        yield f"The stored vectors are those of {match.model} ({match.sampled} texts embedded again, mean cosine {match.mean_cosine})."
    if best is not None:
        card = best.card
        more = [
            ("RAM", _bytes(card.ram_bytes)),
            ("disk in the end", _bytes(card.disk_after_bytes)),
            ("undo", in_commands(card.undo)),
            ("measured from", card.measured_from),
        ]
        yield from _table(f"The card of {best.strategy}", ["", ""], more)
        yield from _listed(f"What {best.strategy} changes for the app", best.card.app_changes)
        yield from _listed("Risks", best.risks)
        yield from _listed("Prerequisites", best.prerequisites)
    models = [(m.name, m.dimensions, m.max_tokens, m.is_ready, m.note) for m in found.models]
    yield from _table("Models", ["model", "dimensions", "max tokens", "ready", "note"], models)


def _differences(found: Sequence[ConfigDifference]) -> Iterator[Part]:
    rows = [(d.path, d.source, d.target, d.is_intended, d.note) for d in found]
    yield from _table("Configuration that differs", ["path", "source", "target", "intended", "note"], rows)


def _create(found: CreateTargetResult) -> Iterator[Part]:
    sides = [(kind, s.connection, s.collection, [f"{v.name or '(unnamed)'} {v.size}" for v in s.vectors]) for kind, s in (("source", found.source), ("target", found.target))]  # fmt: skip
    yield from _table("Sides", ["", "connection", "collection", "vectors"], sides)
    yield from _listed("Would appear on the server", found.would_create)
    yield from _differences(found.config_diff)
    yield from _listed("What the app must change", found.app_changes)
    if found.query_snippet:
        yield f"Queries afterwards:\n{found.query_snippet}"
    if found.dual_write_snippet:
        yield f"Dual writes:\n{found.dual_write_snippet}"


def _status(found: StatusResult) -> Iterator[Part]:
    at, worker = found.progress, found.worker
    facts: list[tuple[str, Any]] = [
        ("phase", found.phase + (", paused" if found.is_paused else "")),
        ("stage", at.stage),
        ("read", f"{at.read:,} of {at.total:,}"),
        ("written, skipped, failed", f"{at.written:,}, {at.skipped:,}, {at.failed:,}"),
        ("rate", None if at.points_per_second is None else f"{at.points_per_second:,.0f} points/s"),
        ("time left", None if at.eta_seconds is None else f"{at.eta_seconds:,} s"),
        ("worker", worker.state if worker.host is None else f"{worker.state}, process {worker.pid} on {worker.host}"),
        ("log", worker.log),
    ]
    if at.lag is not None:
        facts.append(("last pass", f"{at.lag.missing} missing, {at.lag.extra} extra, {at.lag.changed} changed ({at.lag.at})"))
    yield from _table(f"Migration {found.migration_id}", ["", ""], [fact for fact in facts if fact[1] is not None])
    yield from _table("Points that failed or were skipped", ["point", "reason"], [(f.point_id, f.reason) for f in found.failed_points])
    yield from _table("Latest events", ["at", "event", ""], [(e.at, e.event, e.text) for e in found.events[-MOST_EVENTS:]])


def _verification(found: VerifyResult | Verification) -> Iterator[Part]:
    if found.is_complete is None:
        return
    rows: list[tuple[str, Any, list[str]]] = [
        ("points in the source", found.source_points, []),
        ("points in the target", found.target_points, []),
        ("missing", found.missing, found.missing_samples),
        ("extra", found.extra, found.extra_samples),
        ("changed", found.changed, found.changed_samples),
        ("bad vectors", found.bad_vectors, found.bad_vector_samples),
        ("accounted for", found.accounted, []),
        ("embedded again", found.provenance.sampled, []),
        ("of another model", found.provenance.wrong, found.wrong_model_samples),
        ("least cosine", found.provenance.min_cosine, []),
        ("index ready", found.is_index_ready, []),
    ]
    yield from _table(
        "Verification",
        ["", "", "for example"],
        [(name, value, [f"{i} ({found.sample_reasons.get(i, '?')})" for i in samples] or "") for name, value, samples in rows],
    )
    yield from _differences([d for d in found.config_diff if not d.is_intended])


def _repair(found: RepairResult) -> Iterator[Part]:
    if found.repaired is not None:
        yield from _table("Repaired", ["", ""], found.repaired.model_dump().items())
    if found.verification is not None:
        yield from _verification(found.verification)


def _interval(low: float, high: float, sign: str) -> str:
    """Of a difference with signs, of a value without."""
    return f"{low:{sign}.4f} to {high:{sign}.4f}"


def _compare(found: CompareResult) -> Iterator[Part]:
    rows = [
        (
            m.metric,
            m.model,
            f"{m.value:.4f}",
            None if m.difference is None else f"{m.difference:+.4f}",
            None if m.ci_low is None or m.ci_high is None else _interval(m.ci_low, m.ci_high, "+" if m.difference is not None else ""),
            None if m.p_value is None else f"{m.p_value:.4f}",
        )
        for m in found.metrics
    ]
    yield from _table("Metrics", ["metric", "model", "value", "difference", "95 % interval", "p"], rows)
    candidates = [
        (
            c.model,
            None if c.value is None else f"{c.value:.4f}",
            None if c.difference is None else f"{c.difference:+.4f}",
            None if c.ci_low is None or c.ci_high is None else _interval(c.ci_low, c.ci_high, "+" if c.difference is not None else ""),
            c.verdict,
            None if c.documents_per_second is None else f"{c.documents_per_second:,.0f}",
            None if c.usd_per_million_points is None else f"{c.usd_per_million_points:,.2f}",
            c.bytes_per_point,
        )
        for c in found.candidates_table
    ]
    head = [
        "model",
        found.primary_metric,
        "difference",
        "95 % interval",
        "verdict",
        "documents/s",
        "USD per million points",
        "bytes a point",
    ]
    yield from _table("Candidates", head, candidates)
    slices = [
        (
            s.value,
            s.queries,
            f"{s.baseline:.4f}",
            f"{s.candidate:.4f}",
            f"{s.difference:+.4f}",
            None if s.ci_low is None or s.ci_high is None else _interval(s.ci_low, s.ci_high, "+"),
            s.verdict,
        )
        for s in found.slices
    ]
    yield from _table(
        "Slices, worst first", ["value", "queries", "before", "after", "difference", "interval of all together", "verdict"], slices
    )
    times = [(t.model, f"{t.p50:.1f} ms", f"{t.p95:.1f} ms", found.index_recall.get(t.model)) for t in found.latency_ms]
    yield from _table("Searches", ["model", "p50", "p95", "index recall"], times)
    changed = [
        (q.query, q.overlap, q.baseline[0].text if q.baseline else None, q.candidate[0].text if q.candidate else None)
        for q in found.most_changed[:MOST_QUERIES]
    ]
    yield from _table("Queries that changed most", ["query", "overlap", "first hit before", "first hit after"], changed)


def _swap(found: SwapResult) -> Iterator[Part]:
    yield from _listed("What the app must change", found.app_changes)


def _finish(found: FinishResult) -> Iterator[Part]:
    if found.plan is None:
        yield from _listed("Deleted", found.deleted)
        yield from _listed("Kept", found.kept)


def _guidance(found: GuidanceResult) -> Iterator[Part]:
    for section in found.sections:
        yield f"## {section.title}\n\n{section.text}"


_SHOWN: dict[type[Result], Callable[[Any], Iterator[Part]]] = {
    InspectResult: _inspect,
    RecommendResult: _recommend,
    CreateTargetResult: _create,
    StatusResult: _status,
    VerifyResult: _verification,
    RepairResult: _repair,
    CompareResult: _compare,
    SwapResult: _swap,
    FinishResult: _finish,
    GuidanceResult: _guidance,
}

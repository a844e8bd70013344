"""How does a migration read afterwards? What the ledger holds of it, in the order of the audit trail; as Markdown, or as a page to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qdrant_model_migration.domain.cutover import comparison_line
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.ranges import Range
from qdrant_model_migration.domain.records import EventRecord, FailedRecord
from qdrant_model_migration.domain.throughput import Stretch
from qdrant_model_migration.domain.untrusted import visible
from qdrant_model_migration.qdrant.ledger import Ledger
from qdrant_model_migration.results import AliasQueries, WriteGap

MOST_ACCOUNTED = 100
"""Accounted points that a report lists."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the ledger holds of a migration."""

    migration: Migration
    ranges: Sequence[Range]
    failed: Sequence[FailedRecord]
    events: Sequence[EventRecord]
    stretches: Sequence[Stretch]


async def facts_of(ledger: Ledger, migration: Migration) -> Facts:
    """Everything that a report tells."""
    return Facts(
        migration=migration,
        ranges=await ledger.ranges(migration.id),
        failed=await ledger.failed(migration.id),
        events=await ledger.events(migration.id),
        stretches=(await ledger.throughput(migration.id)).stretches,
    )


async def markdown_report(ledger: Ledger, migration: Migration) -> str:
    """What was done, what was proven, what was decided."""
    return as_markdown(await facts_of(ledger, migration))


def as_markdown(facts: Facts) -> str:
    """The report as text."""
    migration, failed = facts.migration, facts.failed
    conflicts = conflicts_of(migration)
    lines = [
        f"# Migration {migration.id}",
        "",
        described(migration),
        model_line(migration),
        "",
        "## Backfill",
        backfill_line(facts),
        "",
        "## Verification",
        *verification_lines(migration),
        "",
        "## Comparison",
        comparison_line(migration.comparison),
        "",
        "## Cutover",
        *(cutover_lines(migration)),
        *(f"- {line}" for line in cutover_items(migration)),
        *([f"- {conflicts_line(migration)}", *(f"  - {point}" for point in conflicts)] if conflicts else []),
        "",
        "## Writes carried over",
        *(f"- {line}" for line in carried_items(migration) or ["None."]),
        "",
        "## Events",
        *(f"- {e.at} {e.event}: {e.text}" for e in facts.events),
    ]
    if failed:
        lines += ["", "## Accounted points", *(f"- {f.point_id}: {f.reason}" for f in failed[:MOST_ACCOUNTED])]
    return "\n".join(visible(line, one_line=True) for line in lines) + "\n"


def described(migration: Migration) -> str:
    return f"{migration.route}, strategy {migration.strategy}, phase {migration.phase.value}."


def model_line(migration: Migration) -> str:
    """The new model, where the texts are, and what a linear map was measured to find."""
    if migration.model is None:
        return f"Quantization: {migration.quantization}. No model is changed."
    texts = migration.texts.expression if migration.texts is not None else migration.text_field
    size = f" ({migration.model.dimensions} dimensions)" if migration.model.dimensions else ""
    line = f"Model {migration.model.name}{size}" + (f", text from `{texts}`." if texts else ".")
    if migration.fitted is not None:
        found = migration.fitted
        line += (
            f" Linear map ({found.kind}): recall@{found.k} {found.recall:.3f} ({found.ci_low:.3f} to {found.ci_high:.3f}) against exact new vectors, on "
            f"{found.held_out} points it was not fitted on."
        )
    return line


def backfill_line(facts: Facts) -> str:
    """Points and tokens, and how fast they went where that was measured."""
    ranges = facts.ranges
    line = (
        f"{sum(r.written for r in ranges):,} points written, {sum(r.skipped for r in ranges):,} skipped, {len(facts.failed)} accounted for; "
        f"{sum(r.tokens for r in ranges):,} tokens, {sum(r.truncated for r in ranges):,} texts longer than the model reads."
    )
    seconds = sum(s.seconds for s in facts.stretches)
    if seconds:
        line += f" {sum(s.points for s in facts.stretches) / seconds:,.1f} points a second over {seconds:,.0f} s of work."
    return line


def verification_lines(migration: Migration) -> list[str]:
    """What was proven, last."""
    found = migration.verification
    if found is None:
        return ["None."]
    provenance = found.provenance
    return [
        f"{found.at}: {'complete' if found.is_complete else 'not complete: ' + '; '.join(found.problems)}. "
        f"{found.source_points:,} points in the source, {found.target_points:,} in the target; {found.missing} missing, {found.extra} extra, "
        f"{found.changed} changed, {found.bad_vectors} bad vectors, {found.accounted} accounted for.",
        f"{provenance.sampled} vectors embedded again: {provenance.wrong} wrong, least cosine {provenance.min_cosine} (threshold {provenance.threshold}).",
    ]


def cutover_lines(migration: Migration) -> list[str]:
    """What is said where no alias moved."""
    if migration.requantized is not None:
        return [] if migration.requantized.advice else ["None."]
    if migration.cutover is None:
        return ["None: each reader changes by itself." if migration.is_in_place else "None."]
    return []


def cutover_items(migration: Migration) -> list[str]:
    """The aliases that moved, and what was agreed to with them; for quantization what is advised."""
    if migration.requantized is not None:
        return list(migration.requantized.advice)
    if migration.cutover is None:
        return []
    moved = [f"{m.alias}: {m.previous or '(new)'} -> {m.current} at {migration.cutover.at}" for m in migration.cutover.moves]
    return [*moved, *(f"accepted: {text}" for text in migration.accepted)]


def conflicts_of(migration: Migration) -> tuple[str, ...]:
    """Points that a rollback left as they are on each side."""
    return () if migration.cutover is None or migration.requantized is not None else migration.cutover.conflicts


def conflicts_line(migration: Migration) -> str:
    return (
        f"{len(conflicts_of(migration)):,} points were left as they are on each side by the way back; "
        f"what {migration.target.collection!r} holds of them is nowhere else:"
    )


def carried_items(migration: Migration) -> list[str]:
    """What became of writes that came while the points were copied, while the readers moved, and before a way back."""
    lines = []
    if migration.lag is not None:
        lag = migration.lag
        lines.append(
            f"the last pass over both collections ({lag.at}) found {lag.missing} missing, {lag.extra} extra, {lag.changed} changed"
        )
    for code, outcome in migration.outcomes.items():
        if "write_gap" in outcome:
            lines.append(f"plan {code}, {outcome['alias']} to {outcome['current']}: {_gap(WriteGap.model_validate(outcome['write_gap']))}")
            lines += [_queried(AliasQueries.model_validate(seen))] if (seen := outcome.get("test_queries")) else []
    if migration.cutover is not None and migration.cutover.returned is not None:
        lines.append(f"on the way back: {_gap(migration.cutover.returned)}")
    return lines


def _queried(seen: AliasQueries) -> str:
    return (
        f"meanwhile a reader of this tool, which resolves the alias with every query, asked {seen.asked:,} and {seen.failed:,} failed"
        f"{': ' + '; '.join(seen.failures) if seen.failures else ''} (the app's own queries are not seen from here)"
    )


def _gap(gap: WriteGap) -> str:
    return f"{gap.carried_over:,} carried over, {gap.superseded:,} superseded by newer writes, {gap.unresolved:,} unresolved"

"""How does a migration read afterwards? A Markdown report from the ledger alone."""

from __future__ import annotations

from qdrant_model_migration.domain.cutover import comparison_line
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.untrusted import visible
from qdrant_model_migration.qdrant.ledger import Ledger


async def markdown_report(ledger: Ledger, migration: Migration) -> str:
    """What was done, what was proven, what was decided; in the order of the audit trail."""
    ranges = await ledger.ranges(migration.id)
    failed = await ledger.failed(migration.id)
    lines = [
        f"# Migration {migration.id}",
        "",
        f"{migration.route}, strategy {migration.strategy}, phase {migration.phase.value}.",
        _model(migration),
        "",
        "## Backfill",
        f"{sum(r.written for r in ranges):,} points written, {sum(r.skipped for r in ranges):,} skipped, {len(failed)} accounted for; "
        f"{sum(r.tokens for r in ranges):,} tokens, {sum(r.truncated for r in ranges):,} texts longer than the model reads.",
        "",
        "## Verification",
        *_verification(migration),
        "",
        "## Comparison",
        comparison_line(migration.comparison),
        "",
        "## Cutover",
        *_cutover(migration),
        "",
        "## Events",
        *(f"- {e.at} {e.event}: {e.text}" for e in await ledger.events(migration.id)),
    ]
    if failed:
        lines += ["", "## Accounted points", *(f"- {f.point_id}: {f.reason}" for f in failed[:100])]
    return "\n".join(visible(line, one_line=True) for line in lines) + "\n"


def _model(migration: Migration) -> str:
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


def _verification(migration: Migration) -> list[str]:
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


def _cutover(migration: Migration) -> list[str]:
    if migration.requantized is not None:
        return [f"- {line}" for line in migration.requantized.advice] or ["None."]
    if migration.cutover is None:
        return ["None: each reader changes by itself." if migration.is_in_place else "None."]
    lines = [f"- {m.alias}: {m.previous or '(new)'} -> {m.current} at {migration.cutover.at}" for m in migration.cutover.moves]
    lines += [f"- accepted: {text}" for text in migration.accepted]
    if migration.cutover.conflicts:
        target = migration.target.collection
        lines.append(
            f"- {len(migration.cutover.conflicts):,} points were left as they are on each side by the way back; what {target!r} holds of them is nowhere else:"
        )
        lines += [f"  - {point}" for point in migration.cutover.conflicts]
    return lines

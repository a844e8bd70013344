"""May the readers be moved? Facts in; a refusal, or a plan with its code, out."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.recipe import Cutover, Moved
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.results import Comparison, Move, SwapPlan

FRESH_S = 15 * 60
"""A verification older than this is repeated before a swap."""
PLAN_LIFE_S = 30 * 60
MOST_MOVES = 8
"""Moves that a plan spells out; further aliases that go the same way are named."""


class SwapFacts(BaseModel):
    """Everything a plan rests on. The code is void when any of it changed; while an app writes, counts are shown but not part of it."""

    model_config = ConfigDict(frozen=True)

    migration_id: str
    direction: Literal["forward", "back"]
    phase: str
    moves: tuple[Moved, ...]
    left: tuple[str, ...]
    verified_at: str | None
    comparison: str
    overrides: tuple[str, ...]
    breaks: tuple[str, ...]
    undo: str
    is_fenced: bool = False
    """Writers are made to wait while the last differences are carried over."""
    losses: tuple[str, ...] = ()
    """What is left behind, as it was counted: shown, and no part of the code, because an app writes on."""
    source_points: int | None
    target_points: int | None

    def digest(self, *, with_counts: bool) -> str:
        uncounted = {"losses": ()} if with_counts else {"losses": (), "source_points": None, "target_points": None}
        facts = self.model_copy(update=uncounted)
        return hashlib.sha256(facts.model_dump_json().encode()).hexdigest()


def plan_code(name: str, token: str) -> str:
    """`docs-3f9a1c`: short enough to be said, and with six digits that were drawn for it."""
    slug = "".join(c if (c.isascii() and c.isalnum()) or c in "_-" else "_" for c in name)[:24]
    return f"{slug}-{token[:6]}"


def check_gates(migration: Migration, now: datetime | None) -> None:
    """Refuse a forward swap that nothing proves; without the time the age of the verification is not judged.

    Raises:
        Refused: not verified, not complete, or verified too long ago.
    """
    migration.check_allows("swap_alias:forward")
    verification = migration.verification
    call = f"Call verify_target(migration_id={migration.id!r})."
    if verification is None:
        raise Refused(f"Cannot swap: the target {migration.target.collection!r} was never verified. {call}")
    if not verification.is_complete:
        raise Refused(
            f"Cannot swap: the last verification found {'; '.join(verification.problems)} in {migration.target.collection!r}. "
            f"Call repair_target(migration_id={migration.id!r}), then verify_target."
        )
    if now is None:
        return
    age_s = (now - datetime.fromisoformat(verification.at)).total_seconds()
    if age_s > FRESH_S:
        raise Refused(f"Cannot swap: the last verification is {age_s / 60:.0f} minutes old; at most {FRESH_S // 60} are allowed. {call}")


def comparison_line(comparison: Comparison | None) -> str:
    """The comparison in one line."""
    if comparison is None:
        return "No comparison was made: nothing shows how well the new model finds."
    metrics = [m for m in comparison.metrics if m.metric == comparison.primary_metric]
    values = "; ".join(
        f"{m.model} {m.metric} {m.value:.3f}"
        + (f" ({m.difference:+.3f}, 95 % interval {m.ci_low:+.3f} to {m.ci_high:+.3f})" if m.difference is not None else "")
        for m in metrics
    )
    kind = "judged" if comparison.is_judged else "not judged (difference, not quality)"
    return f"{comparison.verdict or 'no verdict'} on {comparison.queries} {kind} queries: {values}"


def gate_objection(migration: Migration) -> str | None:
    """What the gate that `create_target` was given has against it; None without a gate, or when it passed."""
    gate, comparison = migration.gate, migration.comparison
    if gate is None or (comparison is not None and comparison.gate == "pass"):
        return None
    if comparison is None:
        return f"the comparison that create_target was given as a gate ({gate.metric}, margin {gate.margin}) was not made"
    return f"the gate ({gate.metric}, margin {gate.margin}) failed: {comparison_line(comparison)}"


def overrides_of(migration: Migration) -> tuple[str, ...]:
    """What somebody who agrees accepts although a gate objects."""
    found = []
    comparison = migration.comparison
    # Before a field is filled nobody searches by it: its comparison comes before the first reader, not before the swap.
    is_due = comparison is not None or not migration.is_fill_due
    if is_due and (objection := gate_objection(migration)) is not None:
        found.append(objection)
    elif comparison is not None and comparison.verdict == "worse":
        found.append(f"the comparison found the new model worse: {comparison_line(comparison)}")
    accounted = migration.verification.accounted if migration.verification else 0
    if accounted:
        found.append(f"{accounted} points have no vector of the new model (no text, or not embeddable): searches will not find them")
    return tuple(found)


def given_up(migration: Migration) -> Migration:
    """A swap that moved no alias, or put them back: its marks say nothing any more. Those of an earlier cutover stay for the rollback."""
    is_forward = migration.phase is not Phase.CUT_OVER
    return migration.model_copy(update={"intent": None, **({"cutover": None} if is_forward else {})})


def settled_back(migration: Migration) -> Cutover | None:
    """With the aliases moved back, what the target got up to the fence is carried back or listed: from now on it is nobody's newer write."""
    cutover = migration.cutover
    if cutover is None or cutover.settled_at is None:
        return cutover
    return cutover.model_copy(update={"target_watermark": cutover.settled_at, "settled_at": None})


def is_fence_of_use(migration: Migration, direction: Literal["forward", "back"]) -> bool:
    """Whether making writers wait changes what becomes of their writes: not where nobody writes, where both sides are written, or across servers."""
    if migration.is_across_servers:
        return False
    return migration.writes == "live" if direction == "forward" else migration.writes != "frozen"


def shown(facts: SwapFacts, code: str, expires_at: str) -> SwapPlan:
    """The plan as a person sees it."""
    counts = {"source_points": facts.source_points, "target_points": facts.target_points}
    listed = facts.moves[:MOST_MOVES]
    way = (listed[-1].previous, listed[-1].current)
    also = [m for m in facts.moves[MOST_MOVES:] if (m.previous, m.current) == way]
    listed += tuple(m for m in facts.moves[MOST_MOVES:] if m not in also)
    return SwapPlan(
        code=code,
        moves=[
            Move(alias=m.alias, from_collection=m.previous, to_collection=m.current)
            for m in sorted(listed, key=lambda m: (m.previous, m.current) == way)
        ],
        also=[m.alias for m in also],
        left=list(facts.left),
        counts={key: value for key, value in counts.items() if value is not None},
        comparison=facts.comparison,
        breaks=[*facts.breaks, *facts.losses],
        overrides=list(facts.overrides),
        undo=facts.undo,
        expires_at=expires_at,
    )

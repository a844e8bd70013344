"""May the readers be moved, and what happens to whom? Facts in; a refusal, or a plan with its code, out."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain.carry_back import LEAST_DELETES, SHARE_OF_DELETES
from qdrant_model_migration.domain.fence import fence_told
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import ModelSpec
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.recipe import Moved
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.results import Comparison, Move, SwapPlan

FRESH_S = 15 * 60
"""A verification older than this is repeated before a swap."""
PLAN_LIFE_S = 30 * 60
MOST_MOVES = 8
"""Moves that a plan spells out; further aliases that go the same way are named."""
MOST_NAMED = 3


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


def moves_forward(migration: Migration, aliases: dict[str, str], wanted: str | None) -> tuple[tuple[Moved, ...], tuple[str, ...]]:
    """(moves, aliases that stay). All aliases of the source move, or only the one that is named; a new one is created.

    Raises:
        Refused: the alias points elsewhere, or none points to the source and none was named.
    """
    source, target = migration.source.collection, migration.target.collection
    pointing = sorted(alias for alias, collection in aliases.items() if collection == source)
    wanted = wanted or migration.alias
    if wanted is None:
        if not pointing:
            raise Refused(
                f"Nothing was changed: no alias points to {source!r}, so there is none to move. Give 'alias' a new name (not the collection's own): it is created "
                f"pointing to {target!r}, and the app's next release uses it."
            )
        return tuple(Moved(alias=alias, previous=source, current=target) for alias in pointing), ()
    where = aliases.get(wanted)
    if where not in (None, source):
        raise Refused(
            f"Nothing was changed: alias {wanted!r} points to {where!r}, not to the source {source!r}. Aliases of the source: {', '.join(pointing) or 'none'}."
        )
    return (Moved(alias=wanted, previous=where, current=target),), tuple(alias for alias in pointing if alias != wanted)


def moves_across(
    migration: Migration, source_aliases: tuple[str, ...], aliases: dict[str, str], collections: list[str], wanted: str | None
) -> tuple[tuple[Moved, ...], tuple[str, ...]]:
    """(aliases created on the target's server, aliases that stay on the source's): the app finds the names it knows on the server it changes to.

    Raises:
        Refused: there is no name, or it is taken on the target's server.
    """
    target = migration.target.collection
    named_ones = (wanted or migration.alias,) if wanted or migration.alias else source_aliases
    names = [name for name in named_ones if name is not None]
    if not names:
        raise Refused(
            f"Nothing was changed: no alias points to {migration.source.collection!r}. Give 'alias' a name: it is created on connection "
            f"{migration.target.connection!r}, pointing to {target!r}, and the app's next release uses it there."
        )
    for name in names:
        where = aliases.get(name)
        if where not in (None, target) or name in collections:
            what = f"an alias of {where!r}" if where is not None else "a collection"
            raise Refused(
                f"Nothing was changed: {name!r} is {what} on connection {migration.target.connection!r} already. Give 'alias' another name, and have the app use it."
            )
    return tuple(Moved(alias=name, previous=aliases.get(name), current=target) for name in names), source_aliases


def reversed_moves(migration: Migration) -> tuple[Moved, ...]:
    """The cutover's moves the other way. An alias that the cutover created points to the source then, or goes, when the source is elsewhere."""
    assert migration.cutover is not None
    fallback = None if migration.is_across_servers else migration.source.collection
    return tuple(Moved(alias=m.alias, previous=m.current, current=m.previous or fallback) for m in migration.cutover.moves)


def moves_back(migration: Migration, aliases: dict[str, str]) -> tuple[Moved, ...]:
    """The cutover's moves reversed.

    Raises:
        Refused: an alias was moved by somebody else since.
    """
    assert migration.cutover is not None
    for moved in migration.cutover.moves:
        where = aliases.get(moved.alias)
        if where != moved.current:
            raise Refused(
                f"Nothing was changed: alias {moved.alias!r} points to {where!r}, not to {moved.current!r} where the swap put it. Somebody moved it since; decide by hand."
            )
    return reversed_moves(migration)


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


def named(moves: tuple[Moved, ...]) -> str:
    """The aliases for a sentence; many are counted, the plan lists them all."""
    shown = ", ".join(repr(m.alias) for m in moves[:MOST_NAMED])
    return shown if len(moves) <= MOST_NAMED else f"{shown} and {len(moves) - MOST_NAMED} more aliases"


def breaks_of(
    migration: Migration,
    moves: tuple[Moved, ...],
    old_dimensions: int | None,
    *,
    is_numbered: bool,
    may_mark: bool = True,
    is_fenced: bool = False,
) -> tuple[str, ...]:
    """Whose queries and writes change when the aliases move forward.

    Args:
        migration: That is to be cut over.
        moves: Of its aliases.
        old_dimensions: Of the old vectors.
        is_numbered: Late writes can be told from newer ones.
        may_mark: The key of the source may write, which telling them needs.
        is_fenced: Writers wait until the aliases have moved, so that there is nothing to be told.
    """
    names = named(moves)
    model = migration.spec
    if migration.keeps_old_field:
        found = [
            f"No query breaks: {names} leads to a collection that answers the old queries as before, beside the new field {migration.making.field!r}."
        ]
        if migration.has_fill_stage:
            share = migration.filled.share if migration.filled is not None else 0.0
            found.append(
                f"{migration.making.field!r} is filled for {share:.0%} of the points: no reader may use it before it is complete. start_backfill fills it after the swap."
            )
    else:
        found = [f"From that moment every query through {names} must be embedded with {model.name} ({model.dimensions} dimensions)."]
        if old_dimensions != model.dimensions:
            found.append(f"Readers that still use the old model ({old_dimensions} dimensions) through {names} fail with a dimension error.")
        else:
            found.append(f"Readers that still use the old model through {names} get nonsense without an error.")
    if migration.is_across_servers:
        found.append(
            f"The alias is created on connection {migration.target.connection!r}; no reader or writer moves by that. Each moves with its own release, which connects there. "
            f"Until then it reads and writes {migration.source.described(with_connection=True)}."
        )
    else:
        found.append(f"Readers and writers that name {migration.source.collection!r} itself are not moved.")
    if migration.is_across_servers and migration.writes != "frozen" and is_numbered:
        found.append(
            "What writers that have not moved yet write there is carried over while the worker runs, and once more by finish_migration; where both sides changed, the "
            "target wins and it is counted. What they delete there after the swap is listed, not deleted."
        )
    elif is_fenced:
        found.append(fence_told(migration.source.collection, names))
    elif migration.writes == "live" and is_numbered:
        found.append(
            "Writes that reach the source during the swap are carried over afterwards. Where the app writes to one point on both sides within those seconds, the "
            "target's point wins whole, and it is counted: an edit of one key there hides an edit of another key here."
        )
    elif migration.writes != "frozen" and not is_numbered:
        found.append(
            f"{migration.source.collection!r} {_UNNUMBERED[may_mark]}: what reaches it during and after the swap is "
            f"not carried over, only listed, and may be lost. Stop the writers {'until their release has moved them' if migration.is_across_servers else 'for the seconds of the swap'}."
        )
    if migration.writes != "frozen" and not migration.keeps_old_field:
        found.append(
            f"Writers through {names} must embed documents with {model.name} from that moment. {unchanged_writer(model, old_dimensions)}"
        )
    return tuple(found)


def unchanged_writer(model: ModelSpec, old_dimensions: int | None) -> str:
    """What becomes of the writes of one that goes on with the old model."""
    if old_dimensions != model.dimensions:
        return (
            f"One that goes on with the old model ({old_dimensions} dimensions) is refused there with 400 'Vector dimension error', and what it wrote is in neither "
            "collection: let it keep what fails and write it again."
        )
    return (
        "One that goes on with the old model is taken without an error, for both have the same dimensions: its points are then found by nobody. verify_target finds them, "
        "also after the swap; call it once the new release is out."
    )


_UNNUMBERED = {
    True: "has several shards or replicas, whose writes are not numbered together",
    False: "may only be read with this key, so that no moment can be marked in its writes",
}


def given_up(migration: Migration) -> Migration:
    """A swap that moved no alias, or put them back: its marks say nothing any more. Those of an earlier cutover stay for the rollback."""
    is_forward = migration.phase is not Phase.CUT_OVER
    return migration.model_copy(update={"intent": None, **({"cutover": None} if is_forward else {})})


def is_fence_of_use(migration: Migration, direction: Literal["forward", "back"]) -> bool:
    """Whether making writers wait changes what becomes of their writes: not where nobody writes, where both sides are written, or across servers."""
    if migration.is_across_servers:
        return False
    return migration.writes == "live" if direction == "forward" else migration.writes != "frozen"


def returned(migration: Migration, lost: str | None) -> str:
    """What becomes of the writes that the target got while it served; `lost`: why they are not carried back."""
    source, target = migration.source.collection, migration.target.collection
    since = f"What was written to {target!r} since {migration.cutover.at if migration.cutover else 'the swap'}"
    if lost is not None:
        return f"{since} is NOT carried back to {source!r}: {lost}. It stays in {target!r} only."
    made = (
        "with the old vectors that the app kept writing"
        if migration.keeps_old_field
        else f"with vectors of the old model {migration.current_model!r} for new texts"
    )
    return (
        f"{since} is carried back to {source!r}, {made}. A point that was also written to in {source!r} meanwhile stays as it is on each side, and is listed. "
        f"Points that are gone from {target!r} are deleted in {source!r}, too, unless they are more than {LEAST_DELETES} and {SHARE_OF_DELETES:.0%} of it: then "
        "none is, and they are counted."
    )


def breaks_back(migration: Migration, names: str) -> str:
    """Whose queries change when the aliases move back."""
    if migration.is_across_servers:
        return (
            f"{names} is removed from connection {migration.target.connection!r}: whoever still asks for it there fails from that moment. Readers and writers go back to "
            f"{migration.source.described(with_connection=True)} first, with the old model's queries."
        )
    if migration.keeps_old_field:
        return f"Queries through {names} that use {migration.making.field!r} fail from that moment: the old collection has no such vector. Old queries go on."
    return (
        f"From that moment queries through {names} must be embedded with the old model ({migration.current_model or 'not stated'}) again."
    )


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

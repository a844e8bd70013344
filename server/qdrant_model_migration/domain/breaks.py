"""Whose queries and writes change when the readers move, and how?"""

from __future__ import annotations

from qdrant_model_migration.domain.carry_back import LEAST_DELETES, SHARE_OF_DELETES
from qdrant_model_migration.domain.fence import fence_told
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import ModelSpec
from qdrant_model_migration.domain.moves import MOST_NAMED, named
from qdrant_model_migration.domain.recipe import Moved


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
        f"Points that are gone from {target!r} are deleted in {source!r}, too. Of more than {LEAST_DELETES} and {SHARE_OF_DELETES:.0%} of it the plan says how many they are; what goes far beyond "
        "that until the readers move is not deleted, and counted."
    )


def only_there(migration: Migration) -> tuple[str, ...]:
    """What goes with a target that served and was left by a rollback."""
    cutover, target, report = migration.cutover, migration.target.collection, f"migration://{migration.id}/report"
    if cutover is None:
        return ()
    if cutover.returned is None:
        return (
            f"What was written to {target!r} from {cutover.at} until the rollback was not carried back: it goes with {target!r}. Copy what is needed first.",
        )
    found: list[str] = []
    if cutover.conflicts:
        named = ", ".join(cutover.conflicts[:MOST_NAMED])
        found.append(
            f"{len(cutover.conflicts):,} points were left as they are on each side by the rollback, for example {named}; {report} lists them. What {target!r} holds of "
            "them is nowhere else and goes with it: copy it first where it is needed."
        )
    kept = cutover.returned.unresolved - len(cutover.conflicts)
    if kept > 0:
        found.append(f"{kept:,} points that were deleted in {target!r} while it served are still in {migration.source.collection!r}.")
    return tuple(found)


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

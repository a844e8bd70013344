"""What of the writes that the target got while it served may be carried back to the source when the readers go back? Pure decisions."""

from __future__ import annotations

from typing import Literal

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.recipe import Cutover
from qdrant_model_migration.domain.verification import Kind

Fate = Literal["back", "stays", "conflict"]


def why_not_carried_back(migration: Migration, *, is_numbered: bool) -> str | None:
    """Why the source cannot get what the target got since the swap, for a sentence; None where it can."""
    cutover = migration.cutover
    if not is_numbered or cutover is None or cutover.source_watermark is None or cutover.target_watermark is None:
        return "operations on the two collections are not numbered, so that it cannot be told which side is newer"
    if migration.keeps_old_field:
        return None
    if migration.texts is not None:
        return "the texts come from a file, which does not hold those written since, so that the old model has nothing to embed"
    if migration.current_model is None or not migration.text_field:
        return "the old model was not stated (current_model and text_field of create_target), so that the old vectors cannot be made"
    if migration.source_match is None or not migration.source_match.is_match:
        return f"the stored vectors did not match the stated old model {migration.current_model!r}, so that the old vectors cannot be made"
    return None


def fate_back(
    kind: Kind,
    source: int | None,
    target: int | None,
    cutover: Cutover,
    *,
    ours: tuple[int, int] | None = None,
    returned: tuple[int, int] | None = None,
    is_filling: bool = False,
) -> Fate:
    """What becomes of a difference when the readers go back; `source` and `target` number the last operation on each side's point.

    Back goes what was written through the alias to a point that the source did not get a write of since. Where both sides were written to,
    nobody can tell which is meant: each stays where it is, and it is listed.

    Args:
        kind: Of the difference.
        source: None where the point is not there, or tells no number.
        target: As `source`.
        cutover: With the marks of the swap.
        ours: The numbers on target and source when a sweep wrote the target's point.
        returned: The numbers on source and target when an earlier pass wrote the source's point: that is no write of the app.
        is_filling: Filling a field numbers the target's points as a write of the app does.
    """
    source_mark, target_mark = cutover.source_watermark, cutover.target_watermark
    assert source_mark is not None
    assert target_mark is not None
    known = max(source_mark, ours[1] if ours is not None else 0)
    is_late = source is not None and source > known and not (returned is not None and source == returned[0])
    if kind is Kind.MISSING:
        # Gone through the alias, unless the source got it, or got it anew, after the swap.
        is_swept = source is not None and source <= (cutover.source_swept or 0)
        return "stays" if source is None or (is_late and not is_swept) else "back"
    if target is None:
        return "conflict"
    was_written = target > target_mark and not (ours is not None and target == ours[0])
    if kind is Kind.EXTRA:
        if not was_written or (returned is not None and target == returned[1]):
            # The latter: the source had it already, and lost it since.
            return "stays"
        return "conflict" if is_filling else "back"
    if source is None:
        return "conflict"
    if not was_written:
        return "stays"
    return "conflict" if is_late else "back"


LEAST_DELETES = 100
SHARE_OF_DELETES = 0.05


def most_deletes(points: int) -> int:
    """Points that a rollback deletes from a source of so many: more look like a target that was cleared or restored by mistake."""
    return max(LEAST_DELETES, int(points * SHARE_OF_DELETES))

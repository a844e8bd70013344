"""What did the embedding cost so far, and may it go on? Tokens times the model's price; a backfill that reached its cap pauses."""

from __future__ import annotations

from collections.abc import Sequence

from qdrant_model_migration.domain.estimates import cost_usd
from qdrant_model_migration.domain.records import EventRecord
from qdrant_model_migration.errors import Interrupted
from qdrant_model_migration.operations.context import now
from qdrant_model_migration.operations.work import Work

BYTES_A_TOKEN = 3
"""Where a model cannot count: more tokens than most texts have, so that a cap is reached too early rather than too late."""


def tokens_by_size(texts: Sequence[str]) -> list[int]:
    """Tokens of each text, rather too many than too few, for models that cannot count them."""
    return [len(text.encode("utf-8", "surrogatepass")) // BYTES_A_TOKEN + 1 for text in texts]


async def pause_at_cap(work: Work) -> None:
    """Pause the backfill when what was embedded costs as much as it may; called where nothing is left to be recorded.

    Raises:
        Interrupted: the cap is reached; the pause is recorded, with an event that says why.
    """
    cap = work.pace.max_cost_usd
    spent = (
        cost_usd(work.progress.tokens, work.migration.spec.price_per_million)
        if cap is not None and work.migration.model is not None
        else None
    )
    if cap is None or spent is None or spent < cap:
        return
    work.check()
    text = f"about {spent:.2f} USD for {work.progress.tokens:,} tokens reached max_cost_usd={cap:g}; control_backfill(action='resume') with a higher one goes on"
    is_told, work.pace = work.pace.is_paused, work.pace.model_copy(update={"is_paused": True})
    if not is_told:
        # Another worker, which meets the cap while this one records it, sees the pause by now.
        work.pace = (await work.ledger.pace(work.id)).model_copy(update={"is_paused": True})
        await work.ledger.save_pace(work.id, work.pace)
        await work.ledger.add_event(work.id, EventRecord(at=now(work.ledger), event="spend_cap", text=text))
    raise Interrupted(f"The backfill paused: {text}.")

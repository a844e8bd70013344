"""Does the app's search template work on both sides, and do its filters match anything? Asked before anything is embedded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qdrant_model_migration.domain.comparison_sides import SidePlan
from qdrant_model_migration.domain.metrics import Query
from qdrant_model_migration.domain.search_template import Search, sided, template_notes
from qdrant_model_migration.errors import ConnectionFailed, MigrationError, Refused
from qdrant_model_migration.operations.sides import SearchedSide, questions


async def with_template(
    template: Search, plans: tuple[SidePlan, SidePlan], sides: Sequence[SearchedSide], k: int
) -> tuple[list[SearchedSide], list[str]]:
    """The sides as the template searches them, and what is to be known of it.

    Raises:
        Refused: it asks what a side does not have, or one of its filters matches nothing on either side.
    """
    found = [replace(side, template=search) for side, search in zip(sides, sided(template, plans), strict=True)]
    if plans[1].added is not None:
        # How the fields go together is said by the template, not by us.
        found[1] = replace(found[1], label=f"{plans[1].dense.model} + {plans[1].added.model} (template)")
    return found, [*template_notes(template, k), *await _matches(found)]


async def check_answers(sides: Sequence[SearchedSide], query: Query, limit: int) -> None:
    """Search each side once: what Qdrant does not take is known before all queries are embedded.

    Raises:
        Refused: with what Qdrant says.
    """
    for side, asked in zip(sides, await questions(sides, [query], None), strict=True):
        if query.id in asked:
            try:
                await side.search(asked[query.id], limit=limit, exact=False)
            except MigrationError as error:
                raise _told(error, side.collection.name) from None


async def _matches(sides: Sequence[SearchedSide]) -> list[str]:
    """Notes on how much the filters leave."""
    counts: list[list[int]] = []
    for side in sides:
        assert side.template is not None
        wanted = [one for one in side.template.filters() if one]
        try:
            counts.append([await side.gateway.searches.matching(side.collection.name, one) for one in wanted])
        except MigrationError as error:
            raise _told(error, side.collection.name) from None
    if not all(counts):
        return []
    if all(max(found) == 0 for found in counts):
        names = " and ".join(dict.fromkeys(f"{side.collection.points:,} points of {side.collection.name!r}" for side in sides))
        raise Refused(
            f"Nothing was compared: the filter of search_template matches none of the {names}. Are field and value written as in the payload?"
        )
    told = [
        f"{'/'.join(f'{n:,}' for n in found)} of {side.collection.points:,} points of {side.collection.name!r}"
        for side, found in zip(sides, counts, strict=True)
    ]
    notes = [f"The template's filters match {' and '.join(dict.fromkeys(told))}."]
    for side, found in zip(sides, counts, strict=True):
        if 0 in found:
            notes.append(
                f"{found.count(0)} of {len(found)} filters of the template match nothing in {side.collection.name!r}: {side.label!r} finds nothing there."
            )
    return notes


def _told(error: MigrationError, collection: str) -> MigrationError:
    if isinstance(error, Refused | ConnectionFailed):
        return error
    return Refused(f"Nothing was compared: {collection!r} does not take the search of search_template: {error}")

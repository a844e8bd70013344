"""Which aliases move where? Forward, to a server that the app changes to, and back."""

from __future__ import annotations

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.recipe import Moved
from qdrant_model_migration.errors import Refused

MOST_NAMED = 3


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


def named(moves: tuple[Moved, ...]) -> str:
    """The aliases for a sentence; many are counted, the plan lists them all."""
    shown = ", ".join(repr(m.alias) for m in moves[:MOST_NAMED])
    return shown if len(moves) <= MOST_NAMED else f"{shown} and {len(moves) - MOST_NAMED} more aliases"

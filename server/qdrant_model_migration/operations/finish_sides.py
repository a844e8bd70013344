"""What is there when a migration ends? Both collections with their aliases, told apart by their servers."""

from __future__ import annotations

from dataclasses import dataclass

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.recipe import Endpoint
from qdrant_model_migration.errors import ConnectionFailed, Refused
from qdrant_model_migration.operations.context import OperationContext


@dataclass(frozen=True, kw_only=True)
class FoundSides:
    """The collections of a migration that exist, and what points to them."""

    points: dict[Endpoint, int]
    """Of each side that exists; the source first."""
    aliases: tuple[tuple[str, Endpoint], ...]
    source: Collection | None
    warnings: tuple[str, ...]
    is_across: bool

    def named(self, side: Endpoint) -> str:
        return side.described(with_connection=self.is_across)

    def label(self, side: Endpoint) -> str:
        return side.label(with_connection=self.is_across)

    def aliases_that_go(self, migration: Migration, doomed: Endpoint | None) -> list[str]:
        """Aliases of what is deleted that go with it.

        Beside the source no alias may point to it any more: that it does means that readers are there. On another server it always does, since
        a swap moves nothing there; those go with it whose name the cutover created on the target's server, where the app finds it.

        Raises:
            Refused: an alias whose readers would have nowhere to go.
        """
        pointing = [alias for alias, side in self.aliases if side == doomed]
        may_go = created_elsewhere(migration) if doomed == migration.source else set[str]()
        stuck = [alias for alias in pointing if alias not in may_go]
        if stuck and doomed is not None:
            names = ", ".join(map(repr, stuck))
            remedy = (
                f"The cutover created no such alias on connection {migration.target.connection!r}. When nobody uses it any more, remove it on connection "
                f'{doomed.connection!r}: POST /collections/aliases {{"actions": [{{"delete_alias": {{"alias_name": "{stuck[0]}"}}}}]}}.'
                if self.is_across and doomed == migration.source
                else "Move or remove the alias first."
            )
            raise Refused(
                f"Nothing was deleted: alias {names} points to {self.named(doomed)}, and deleting a collection drops its aliases. {remedy}"
            )
        return pointing


def created_elsewhere(migration: Migration) -> set[str]:
    """Names that the cutover created on the target's server, where that is another than the source's."""
    moves = migration.cutover.moves if migration.is_across_servers and migration.cutover is not None else ()
    return {m.alias for m in moves}


async def found_sides(context: OperationContext, migration: Migration, *, must_see_source: bool) -> FoundSides:
    """Look at both sides.

    Raises:
        ConnectionFailed: the target's server does not answer, or the source's other server does not although it must.
    """
    points: dict[Endpoint, int] = {}
    aliases: list[tuple[str, Endpoint]] = []
    source: Collection | None = None
    warnings: list[str] = []
    for side in (migration.source, migration.target):
        gateway = await context.gateway(side.connection)
        try:
            if not await gateway.exists(side.collection):
                continue
            points[side] = await gateway.points.count(side.collection)
            aliases += [(alias, side) for alias, name in sorted((await gateway.aliases()).items()) if name == side.collection]
            source = await gateway.describe(side.collection) if side == migration.source else source
        except ConnectionFailed:
            if side == migration.target or not migration.is_across_servers or must_see_source:
                raise
            warnings.append(
                f"Connection {side.connection!r} does not answer: {side.collection!r} there stays as it is, and what was written to it after the swap is not carried over."
            )
    return FoundSides(points=points, aliases=tuple(aliases), source=source, warnings=tuple(warnings), is_across=migration.is_across_servers)

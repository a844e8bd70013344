"""May a new collection or alias have this name? Not one that this tool keeps, or has promised to another migration."""

from __future__ import annotations

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.target import name_problem
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.finding import open_migrations_of

NOTHING = "Nothing was changed"


async def check_new_name(context: OperationContext, connection: str, name: str, *, migration_id: str | None) -> None:
    """Refuse a name for a collection or alias of that connection.

    Raises:
        Refused: Qdrant would not take it, it is the ledger's, or the target of another open migration has it, created yet or not.
    """
    problem = name_problem(name)
    if problem is not None:
        raise Refused(f"{NOTHING}: {name!r} cannot be the name of a collection or alias: {problem}. Choose another one.")
    if name == context.settings.ledger:
        raise Refused(f"{NOTHING}: {name!r} is the ledger of this tool, where migrations are recorded. Choose another name.")

    def has_it(other: Migration) -> bool:
        return other.id != migration_id and (other.target.connection, other.target.collection) == (connection, name)

    for other in await open_migrations_of(context, connection, has_it):
        raise Refused(
            f"{NOTHING}: {name!r} is the target of migration {other.id}, which is in phase '{other.phase.value}'. Choose another name, or finish that one first."
        )

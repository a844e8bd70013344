"""Did the person agree? Asked where the host can ask; a no wins over any code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcp.server.elicitation import AcceptedElicitation, CancelledElicitation, ElicitationResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import Elicit
from pydantic import BaseModel, Field

from qdrant_model_migration.domain.untrusted import visible
from qdrant_model_migration.errors import MigrationError, NotFound, Refused
from qdrant_model_migration.redaction import redacted
from qdrant_model_migration.tools.support import app_of


class Agreement(BaseModel):
    """The answer to the question whether a plan is to be carried out."""

    agreed: bool = Field(description="Carry the plan out?")


def can_ask(ctx: Context[Any, Any]) -> bool:
    """Whether the host shows questions to the person (form elicitation; a bare capability counts as that)."""
    capabilities = ctx.client_capabilities
    elicitation = capabilities.elicitation if capabilities is not None else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


async def ask(
    ctx: Context[Any, Any], migration_id: str, plan: str | None = None, connection: str | None = None
) -> Agreement | Elicit[Agreement]:
    """Ask before a plan is carried out. A call without a plan changes nothing and needs no answer; nor does a plan that is unknown.

    Where the host cannot ask, the code is what remains: it exists only because the plan was shown first.
    """
    if plan is None or not can_ask(ctx):
        return Agreement(agreed=True)
    from qdrant_model_migration.operations.finding import find_migration

    try:
        ledger, migration = await find_migration(app_of(ctx).context, migration_id, connection)
        held = await ledger.plan(migration.id, plan.strip())
    except (NotFound, Refused):
        held = None
    except MigrationError as error:
        # Qdrant may answer again when the call is carried out: without the question it must not be.
        raise ToolError(redacted(visible(str(error), one_line=True))) from None
    if held is None:
        # The call itself answers what is wrong with it. Should the plan be found after all by then, nobody agreed.
        return Agreement(agreed=False)
    if held.is_used:
        # The call tells the outcome again.
        return Agreement(agreed=True)
    question = f"Migration {migration_id.strip()}, plan {held.code}: {held.text} Carry it out?"
    return Elicit(visible(question, one_line=True), Agreement)


@dataclass(frozen=True)
class NotAgreed:
    """Why a plan is not carried out, and the same as a sentence."""

    refusal: str
    said: str


DECLINED = NotAgreed("the person declined", "The person said no: nothing was changed.")
UNANSWERED = NotAgreed(
    "nobody answered the question",
    "The question was closed without an answer, by the person or by a host that runs without one: nothing was changed. The plan waits for a "
    "person until it expires; do not carry it out in another way.",
)


def why_not(outcome: ElicitationResult[Agreement]) -> NotAgreed | None:
    """None after a plain yes, and only then."""
    if isinstance(outcome, CancelledElicitation):
        return UNANSWERED
    return None if isinstance(outcome, AcceptedElicitation) and outcome.data.agreed else DECLINED

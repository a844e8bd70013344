"""How does a person's agreement reach the driver? A plan is kept under a code; the code is void when a fact changed, expired or used."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from qdrant_model_migration.domain.cutover import PLAN_LIFE_S, plan_code
from qdrant_model_migration.domain.records import PlanRecord
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.qdrant.ledger import Ledger

Kind = Literal["swap", "finish"]
MOST_WRONG_CODES = 5
"""Codes that nobody issued which a migration is shown before its open plans are void: six hex digits are not found by trying."""


async def issue_plan(
    ledger: Ledger,
    migration_id: str,
    *,
    kind: Kind,
    name: str,
    digest: str,
    arguments: dict[str, Any],
    text: str,
    overrides: tuple[str, ...] = (),
) -> tuple[str, str]:
    """Keep a plan and return (code, when it expires). The same facts asked for again give the same plan while that one is open.

    The code is drawn at random: one that can be worked out from the facts would be known before anybody was shown the plan.
    """
    expires = ledger.now().timestamp() + PLAN_LIFE_S
    code: str | None = None
    for held in await ledger.plans(migration_id):
        is_same = (held.kind, held.facts_digest, held.arguments) == (kind, digest, arguments)
        if is_same and _why_closed(held, ledger) is None and await ledger.renew_plan(migration_id, held.code, expires):
            code = held.code
    if code is None:
        record = PlanRecord(
            code=plan_code(name, secrets.token_hex(3)),
            kind=kind,
            facts_digest=digest,
            arguments=arguments,
            expires_at=expires,
            text=text,
            overrides=overrides,
        )
        while not await ledger.add_plan(migration_id, record):
            record = record.model_copy(update={"code": plan_code(name, secrets.token_hex(3))})
        code = record.code
    return code, datetime.fromtimestamp(expires, UTC).isoformat(timespec="seconds")


async def check_made_for(ledger: Ledger, migration_id: str, code: str, kind: Kind, arguments: Mapping[str, Any]) -> PlanRecord:
    """The plan of a code, which must have been issued for this call.

    Raises:
        Refused: no such code was issued for this migration and tool, which is counted; or it was for other arguments.
    """
    plan = await ledger.plan(migration_id, code.strip())
    if plan is None or plan.kind != kind:
        await ledger.count_wrong_code(migration_id)
        raise Refused(
            f"Nothing was changed: no plan {code[:80]!r} was made for migration {migration_id}. Call again without 'plan', show the plan, and pass its code after the person agreed."
        )
    for name, wanted in arguments.items():
        if name in plan.arguments and plan.arguments[name] != wanted:
            raise Refused(
                f"Nothing was changed: plan {plan.code!r} was made for {name}={plan.arguments[name]!r}, not for {wanted!r}. Call again without 'plan' to see what {wanted!r} would do."
            )
    return plan


async def redeem(ledger: Ledger, migration_id: str, code: str, kind: Kind, digest: str) -> str | None:
    """Why a code cannot be carried out, or None. Marks nothing as used.

    Raises:
        Refused: the code was never issued for this.
    """
    plan = await check_made_for(ledger, migration_id, code, kind, {})
    if (why := _why_closed(plan, ledger)) is not None:
        return why
    if plan.facts_digest != digest:
        return "something the plan rests on has changed since it was shown"
    return None


def _why_closed(plan: PlanRecord, ledger: Ledger) -> str | None:
    if plan.is_used:
        return "this plan was carried out already; a code works once"
    if ledger.now().timestamp() > plan.expires_at:
        return "the plan expired"
    if plan.wrong_codes >= MOST_WRONG_CODES:
        return f"{plan.wrong_codes} wrong codes were passed since the plan was shown, as if somebody guessed"
    return None

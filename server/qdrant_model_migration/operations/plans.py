"""How does a person's agreement reach the driver? A plan is kept under a code; the code is void when a fact changed, expired or used."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any, Literal

from qdrant_model_migration.domain.cutover import PLAN_LIFE_S, plan_code
from qdrant_model_migration.domain.records import PlanRecord
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.qdrant.ledger import Ledger


async def issue_plan(
    ledger: Ledger,
    migration_id: str,
    *,
    kind: Literal["swap", "finish"],
    name: str,
    digest: str,
    arguments: dict[str, Any],
    text: str,
    overrides: tuple[str, ...] = (),
) -> tuple[str, str]:
    """Keep a plan and return (code, when it expires). The same facts asked for again give the same unused plan."""
    for number in range(50):
        code = plan_code(name, hashlib.sha256(f"{digest}-{number}".encode()).hexdigest())
        held = await ledger.plan(migration_id, code)
        if held is not None and held.is_used:
            continue
        expires = ledger.now().timestamp() + PLAN_LIFE_S
        record = PlanRecord(
            code=code, kind=kind, facts_digest=digest, arguments=arguments, expires_at=expires, text=text, overrides=overrides
        )
        await ledger.add_plan(migration_id, record)
        return code, datetime.fromtimestamp(expires, UTC).isoformat(timespec="seconds")
    raise Refused(f"Migration {migration_id} has used up its plans for these facts; start a new migration.")


async def redeem(ledger: Ledger, migration_id: str, code: str, kind: Literal["swap", "finish"], digest: str) -> str | None:
    """Why a code cannot be carried out, or None. Marks nothing as used.

    Raises:
        Refused: the code was never issued for this.
    """
    plan = await ledger.plan(migration_id, code.strip())
    if plan is None or plan.kind != kind:
        raise Refused(
            f"Nothing was changed: no plan {code!r} was made for migration {migration_id}. Call again without 'plan', show the plan, and pass its code after the person agreed."
        )
    if plan.is_used:
        return "this plan was carried out already; a code works once"
    if ledger.now().timestamp() > plan.expires_at:
        return "the plan expired"
    if plan.facts_digest != digest:
        return "something the plan rests on has changed since it was shown"
    return None

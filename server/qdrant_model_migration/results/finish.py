"""What is deleted and what is kept? The plan and the answer of finish_migration."""

from __future__ import annotations

from typing import Literal

from qdrant_model_migration.results.common import Wire, WriteResult


class FinishPlan(Wire):
    code: str
    action: Literal["keep_old", "delete_old", "discard_new"]
    deletes: list[str]
    keeps: list[str]
    counts: dict[str, int]
    warnings: list[str] = []
    undo: str
    expires_at: str


class FinishOutcome(Wire):
    deleted: list[str]
    kept: list[str]
    snapshot: str | None = None


class FinishResult(WriteResult):
    migration_id: str
    phase: str
    plan: FinishPlan | None = None
    refusal: str | None = None
    deleted: list[str] = []
    kept: list[str] = []

"""Which readers move, or have moved? The plan and the answer of swap_alias."""

from __future__ import annotations

from pydantic import Field

from qdrant_model_migration.results.common import Wire, WriteResult


class Move(Wire):
    alias: str
    from_collection: str | None = Field(description="null when the alias is created")
    to_collection: str | None = Field(description="null when the alias is removed")


class SwapPlan(Wire):
    code: str
    moves: list[Move]
    also: list[str] = Field(default=[], description="further aliases that make the same move as the last one listed")
    left: list[str] = Field(default=[], description="aliases of the source that stay where they are")
    counts: dict[str, int]
    comparison: str
    breaks: list[str] = Field(description="whose queries or writes change, and how")
    overrides: list[str] = Field(default=[], description="what agreeing to this plan accepts although a gate objects")
    undo: str
    expires_at: str


class WriteGap(Wire):
    carried_over: int = 0
    superseded: int = 0
    unresolved: int = 0
    unresolved_samples: list[str] = []


class AliasQueries(Wire):
    """What a reader of this tool saw that resolves the alias with every query, from before the move until after it. An app's own queries are not seen."""

    asked: int = 0
    failed: int = 0
    failures: list[str] = []


class SwapOutcome(Wire):
    alias: str
    previous: str | None
    current: str | None
    write_gap: WriteGap = WriteGap()
    test_queries: AliasQueries | None = None
    notes: list[str] = []


class SwapResult(WriteResult):
    migration_id: str
    phase: str
    plan: SwapPlan | None = None
    refusal: str | None = Field(default=None, description="why the plan that was passed was not carried out")
    alias: str | None = None
    previous: str | None = None
    current: str | None = None
    write_gap: WriteGap | None = None
    test_queries: AliasQueries | None = Field(
        default=None, description="asked by this tool through the alias while it moved, resolving it each time; null where none could be"
    )
    app_changes: list[str] = []

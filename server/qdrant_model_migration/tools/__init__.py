"""The twelve tools: signature, description, annotations and one call each.

A host waits for the list of tools: what a call works with (operations, domain, and through them Qdrant's client and numpy) is imported when it is
made, inside its function. tests/architecture/test_start_up.py keeps to that.
"""

from __future__ import annotations

from qdrant_model_migration.tools import (
    compare_models,
    control_backfill,
    create_target,
    finish_migration,
    inspect_collection,
    migration_status,
    read_guidance,
    recommend_strategy,
    repair_target,
    start_backfill,
    swap_alias,
    verify_target,
)
from qdrant_model_migration.tools.support import ToolSpec

TOOLS: tuple[ToolSpec, ...] = (
    inspect_collection.SPEC,
    recommend_strategy.SPEC,
    create_target.SPEC,
    start_backfill.SPEC,
    migration_status.SPEC,
    control_backfill.SPEC,
    verify_target.SPEC,
    repair_target.SPEC,
    compare_models.SPEC,
    swap_alias.SPEC,
    finish_migration.SPEC,
    read_guidance.SPEC,
)
"""In the order of a migration."""

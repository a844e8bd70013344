"""Tool read_guidance."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.server.mcpserver import Context
from pydantic import Field

from qdrant_model_migration.results import GuidanceResult, Section
from qdrant_model_migration.tools.support import ToolSpec, read_only


async def read_guidance(
    ctx: Context[Any, Any],
    topic: Annotated[str | None, Field(description="a question or a few words; leave out for the contents", max_length=300)] = None,
) -> GuidanceResult:
    from qdrant_model_migration.domain.guidance import guidance_sections, matching

    found = matching(guidance_sections(), topic)
    titles = ", ".join(f"'{s.title}'" for s in found[:3])
    return GuidanceResult(
        summary=f"Guidance on {topic!r}: {titles}." if topic else "The contents of the guidance; ask for a topic.",
        sections=[Section(title=s.title, text=s.text) for s in found],
    )


SPEC = ToolSpec(
    fn=read_guidance,
    title="Read the migration guidance",
    description=(
        "The guidance on changing an embedding model in Qdrant, by section: when re-embedding can be avoided, zero downtime, hybrid search, which "
        "model, huge collections, chunking, rollback, what not to do. Use it for questions of why and whether, and before advising something that no "
        "other tool decides. It reads a packaged text and no server."
    ),
    annotations=read_only(),
)

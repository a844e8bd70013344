"""What was made, and how does it differ from the source? The answer of create_target."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from qdrant_model_migration.results.common import Wire, WriteResult
from qdrant_model_migration.results.inspect import VectorInfo
from qdrant_model_migration.results.recommend import MapReport, SourceMatch


class Side(Wire):
    connection: str
    collection: str
    vectors: list[VectorInfo]


class RecipeInfo(Wire):
    field: str
    kind: Literal["embed", "copy", "truncate", "linear_map"]
    source_field: str | None = None
    model: str | None = None
    dimensions: int | None = None
    stage: Literal["insert", "fill"] = Field(default="insert", description="written with the point, or filled in afterwards")


class ConfigDifference(Wire):
    path: str
    source: Any = None
    target: Any = None
    is_intended: bool = False
    note: str | None = None


class CreateTargetResult(WriteResult):
    migration_id: str
    phase: str
    is_dry_run: bool = False
    would_create: list[str] = []
    source: Side
    target: Side
    recipes: list[RecipeInfo]
    config_diff: list[ConfigDifference] = Field(default=[], description="where the target, read back, differs from the source")
    app_changes: list[str] = []
    dual_write_snippet: str = ""
    query_snippet: str = Field(default="", description="how the app queries afterwards, in Python")
    fitted: MapReport | None = Field(default=None, description="of linear_map: what the map finds, measured on points it was not fitted on")
    source_match: SourceMatch | None = None

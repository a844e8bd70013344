"""What did another quantization cost in recall? Kept with the migration, and told in its report."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qdrant_model_migration.results.common import Wire
from qdrant_model_migration.results.create_target import ConfigDifference


class RecallVariant(Wire):
    """The recall with search parameters that an app can ask for."""

    rescore: bool | None = None
    oversampling: float | None = None
    ignore: bool = Field(default=False, description="searched by the original vectors: what the index alone loses")
    recall: float
    ci_low: float
    ci_high: float


class IndexRecall(Wire):
    """Share of the exact top k that a search finds; stored vectors were the queries, each without its own point."""

    k: int
    queries: int
    recall: float = Field(description="with no search parameters, as an app that says nothing gets it")
    ci_low: float
    ci_high: float
    quantization: str | None = None
    variants: list[RecallVariant] = Field(default=[], description="cheapest first; empty when the field is not quantized")


class RequantizeOutcome(Wire):
    """What changing a field's quantization did."""

    kind: Literal["scalar", "product", "binary", "off", "restored"]
    field: str = Field(description="empty for the unnamed vector")
    before: IndexRecall | None = None
    after: IndexRecall | None = None
    changed: list[ConfigDifference] = Field(default=[], description="configuration paths: before (source) and after (target)")
    is_ready: bool = Field(description="whether the server was done within the time given")
    seconds: float
    advice: list[str] = Field(default=[], description="what the app should ask for, with the line of code")
    notes: list[str] = []

"""Which strategies suit, and at what cost? The answer of recommend_strategy, and what is measured for it."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from qdrant_model_migration.results.common import NextStep, Result, Wire


class SourceMatch(Wire):
    """Texts of the source embedded again with the stated model, against the stored vectors."""

    model: str
    text_field: str
    sampled: int
    min_cosine: float | None = None
    mean_cosine: float | None = None
    threshold: float
    is_match: bool
    likely_causes: list[str] = []


class Card(Wire):
    """The decision card."""

    points: int
    tokens: int | None = None
    truncated_share: float | None = Field(default=None, description="share of sampled texts longer than the model's limit")
    seconds: float | None = None
    cost_usd: float | None = None
    disk_bytes: int | None = Field(default=None, description="additional, while both collections exist")
    ram_bytes: int | None = Field(default=None, description="additional, while both collections exist")
    disk_after_bytes: int | None = Field(default=None, description="additional when what is replaced has gone; negative: less than now")
    ram_after_bytes: int | None = None
    app_changes: list[str] = []
    undo: str = ""
    measured_from: str = Field(default="", description="what the estimates rest on")


class Recommendation(Wire):
    strategy: str
    is_feasible: bool
    reasons: list[str] = []
    refusals: list[str] = []
    prerequisites: list[str] = []
    risks: list[str] = []
    card: Card
    guidance: str
    next_step: NextStep | None = None


class UsableModel(Wire):
    name: str
    kind: str
    dimensions: int | None = None
    max_tokens: int | None = None
    is_ready: bool
    note: str | None = None


class DimensionQuality(Wire):
    """How many of the true nearest neighbours vectors still find when they are cut to their first numbers."""

    dimensions: int
    recall_at_k: float
    ci_low: float = Field(description="95 % bootstrap interval over the queries")
    ci_high: float
    k: int
    sample: int = Field(description="vectors searched; in a larger collection neighbours are harder to find")


class MapReport(Wire):
    """A linear map from the stored vectors to another model's, judged on pairs that it was not fitted on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["procrustes", "ridge"]
    dimensions: tuple[int, int] = Field(description="of the stored and of the new vectors")
    pairs: int = Field(description="points whose text was embedded with the new model, held-out ones included")
    held_out: int = Field(description="points that the map was not fitted on; they are the queries and the whole pool")
    k: int
    recall: float = Field(description="share of the exact new vectors' k nearest held-out points that the mapped vectors find as well")
    ci_low: float = Field(description="95 % bootstrap interval over the held-out points")
    ci_high: float
    rejected_recall: float = Field(description="recall of the other kind of map")
    mean_cosine: float = Field(description="between the mapped and the exact new vectors of held-out points")
    floor: float = Field(description="the recall below which the map is refused")
    seed: int
    digest: str = Field(description="of the map")
    left_out: dict[str, int] = Field(default={}, description="sampled points that could not be used, by reason")

    @property
    def is_acceptable(self) -> bool:
        return self.recall >= self.floor


class RecommendResult(Result):
    source_match: SourceMatch | None = None
    recommendations: list[Recommendation] = []
    dimensions: list[DimensionQuality] = Field(default=[], description="what shortened vectors still find, size by size; a person chooses")
    models: list[UsableModel] = []

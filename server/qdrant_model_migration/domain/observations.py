"""What does the choice of a strategy rest on, and what is said of each? The records of strategy.py and its rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from qdrant_model_migration.domain.collection import Collection, VectorField
from qdrant_model_migration.domain.model import ModelName, ModelSpec
from qdrant_model_migration.domain.strategies import STRATEGY
from qdrant_model_migration.results import DimensionQuality, SourceMatch

Writes = Literal["frozen", "dual_write", "live"]
Readers = Literal["one_deploy", "rolling", "self_resolving"]


class Goal(StrEnum):
    REPLACE_MODEL = "replace_model"
    COMPARE_MODELS = "compare_models"
    ADD_SPARSE = "add_sparse"
    ADD_MULTIVECTOR = "add_multivector"
    SHRINK_VECTORS = "shrink_vectors"
    CHANGE_QUANTIZATION = "change_quantization"


STRATEGIES = tuple(STRATEGY)


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Everything the decision rests on."""

    goal: Goal
    server: str
    """The source server's version, for messages; `capabilities` decides."""
    capabilities: frozenset[str]
    is_embedded: bool = False
    target_server: str | None = None
    """Version of the server that takes the target, when that is another one; `target_capabilities` goes with it."""
    target_capabilities: frozenset[str] | None = None
    is_target_embedded: bool = False
    is_target_cluster: bool | None = None
    """Whether the target's server runs in cluster mode, as custom shard keys need; None when it is not known."""
    collection: Collection
    data_bytes: int
    field: VectorField | None
    """The dense field in question."""
    text_field: str | None
    """Where the texts lie in the payload."""
    has_texts_file: bool = False
    """The texts come from a file keyed by point id; `text_coverage` is then the file's."""
    text_coverage: float = 0.0
    foreign_letters: float = 0.0
    """Share of letters outside ASCII in the sampled texts, 0 to 1."""
    model: ModelSpec | None = None
    current: ModelSpec | None = None
    match: SourceMatch | None = None
    rows: float | None = None
    """Mean token vectors or sparse entries of a sampled text under the new model; None when not measured."""
    model_problem: str | None = None
    """Why texts cannot be embedded with the new model here, although it is known what it is."""
    cut: DimensionQuality | None = None
    """What vectors cut to the wanted dimensions (or the next smaller ones that were measured) still find in a sample."""
    has_passed_comparison: bool = False
    """A comparison of the current model with itself at the wanted dimensions has passed on this collection."""
    writes: Writes = "live"
    readers: Readers = "one_deploy"
    has_alias: bool = False
    """Readers can come through an alias."""

    @property
    def is_current_known(self) -> bool:
        return self.current is not None and self.match is not None and self.match.is_match

    @property
    def is_elsewhere(self) -> bool:
        """Whether the target lies on another server than the source."""
        return self.target_server is not None

    @property
    def target_version(self) -> str:
        return self.target_server or self.server

    @property
    def lands_embedded(self) -> bool:
        """Whether the target would lie in the embedded database."""
        return self.is_target_embedded if self.is_elsewhere else self.is_embedded

    def can(self, feature: str) -> bool:
        """Whether the side that is written has a feature: the target's server, which is the source's for what happens in place."""
        return feature in (self.target_capabilities or frozenset() if self.is_elsewhere else self.capabilities)

    @property
    def has_same_base(self) -> bool:
        """Whether new and current model are one model, whatever their sizes."""
        if self.model is None or self.current is None:
            return False
        new, old = ModelName.parse(self.model.name), ModelName.parse(self.current.name)
        return (new.provider, new.model) == (old.provider, old.model)

    @property
    def wanted_dimensions(self) -> int | None:
        """Of the made field: those of the new model, as it is asked for."""
        return self.model.dimensions if self.model else None

    @property
    def is_smaller(self) -> bool:
        """Whether the new vectors would have fewer dimensions than the stored ones."""
        new, old = self.wanted_dimensions, self.field.size if self.field else None
        return new is not None and old is not None and new < old


@dataclass(kw_only=True)
class Advice:
    """One strategy, judged. It is feasible unless refused."""

    strategy: str
    serves_goal: bool
    reasons: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    prerequisites: list[str] = field(default_factory=list)
    risks: list[str] = field(default_factory=list)
    app_changes: list[str] = field(default_factory=list)
    undo: str = ""
    is_in_place: bool = False
    quantization: str | None = None
    """What requantize is advised to set."""
    needs_comparison: bool = False
    """Refused for want of a comparison that passed, and of nothing else that a comparison would not change."""
    is_told: bool = True
    """Whether there is more to say than that it does not reach the goal."""

    @property
    def is_feasible(self) -> bool:
        return not self.refusals

    @property
    def guidance(self) -> str:
        return STRATEGY[self.strategy].guidance


# Models that their publishers say were trained for cutting (Matryoshka); matched against the name behind provider and owner.
MATRYOSHKA = (
    "text-embedding-3-", "nomic-embed-text-v1.5", "mxbai-embed-large-v1", "embeddinggemma", "snowflake-arctic-embed-m-v1.5",
    "snowflake-arctic-embed-l-v2", "snowflake-arctic-embed-m-v2", "jina-embeddings-v3", "jina-embeddings-v4", "qwen3-embedding",
    "embed-v4", "voyage-3-large", "voyage-3.5", "voyage-code-3", "gemini-embedding-001", "mrl",
)  # fmt: skip


def is_matryoshka(model: str) -> bool:
    """Whether a model's publisher says that its vectors may be cut."""
    name = model.lower()
    return any(mark in name for mark in MATRYOSHKA)

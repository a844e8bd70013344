"""What does the choice of a strategy rest on, and what is said of each? The records of strategy.py and its rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from qdrant_model_migration.domain.collection import Collection, VectorField
from qdrant_model_migration.domain.model import ModelName, ModelSpec
from qdrant_model_migration.results import SourceMatch

Writes = Literal["frozen", "dual_write", "live"]
Readers = Literal["one_deploy", "rolling", "self_resolving"]


class Goal(StrEnum):
    REPLACE_MODEL = "replace_model"
    COMPARE_MODELS = "compare_models"
    ADD_SPARSE = "add_sparse"
    ADD_MULTIVECTOR = "add_multivector"
    SHRINK_VECTORS = "shrink_vectors"
    CHANGE_QUANTIZATION = "change_quantization"


STRATEGIES = ("new_collection", "side_by_side", "named_vector", "add_sparse", "add_multivector", "truncate", "linear_map", "requantize")
IMPLEMENTED = frozenset({"new_collection"})
"""What create_target of this version carries out; the others are ranked and explained."""

GUIDANCE = {
    "new_collection": "A new collection beside the old one (new_collection)",
    "side_by_side": "Side by side, for A/B tests (side_by_side, named_vector)",
    "named_vector": "Side by side, for A/B tests (side_by_side, named_vector)",
    "add_sparse": "From dense to hybrid search (add_sparse, add_multivector)",
    "add_multivector": "From dense to hybrid search (add_sparse, add_multivector)",
    "truncate": "Smaller vectors without re-embedding (truncate, requantize)",
    "linear_map": "Mapping instead of re-embedding (linear_map)",
    "requantize": "Smaller vectors without re-embedding (truncate, requantize)",
}
"""Section of SKILL.md that a strategy follows."""


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Everything the decision rests on."""

    goal: Goal
    server: str
    """The server's version, for messages; `capabilities` decides."""
    capabilities: frozenset[str]
    is_embedded: bool = False
    collection: Collection
    data_bytes: int
    field: VectorField | None
    """The dense field in question."""
    text_field: str | None
    text_coverage: float = 0.0
    model: ModelSpec | None = None
    current: ModelSpec | None = None
    match: SourceMatch | None = None
    writes: Writes = "live"
    readers: Readers = "one_deploy"
    has_alias: bool = False
    """Readers can come through an alias."""

    @property
    def is_current_known(self) -> bool:
        return self.current is not None and self.match is not None and self.match.is_match

    @property
    def has_same_base(self) -> bool:
        """Whether new and current model are one model at two sizes."""
        if self.model is None or self.current is None:
            return False
        new, old = ModelName.parse(self.model.name), ModelName.parse(self.current.name)
        return (new.provider, new.model) == (old.provider, old.model)


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
    is_told: bool = True
    """Whether there is more to say than that it does not reach the goal."""

    @property
    def is_feasible(self) -> bool:
        return not self.refusals

    @property
    def is_implemented(self) -> bool:
        return self.strategy in IMPLEMENTED

    @property
    def guidance(self) -> str:
        return GUIDANCE[self.strategy]


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

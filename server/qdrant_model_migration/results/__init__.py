"""The wire contract: what every tool answers, and what the ledger keeps of an operation's outcome.

Field names are stable; fields may be added, with defaults. Point ids are tagged strings (`i:42`, `u:…`).
"""

from __future__ import annotations

from qdrant_model_migration.results.common import NextStep, Result, Wire, WriteResult
from qdrant_model_migration.results.compare import (
    CandidateRow,
    ChangedQuery,
    CompareResult,
    Comparison,
    Hit,
    Latency,
    Metric,
    QueryCounts,
    Slice,
)
from qdrant_model_migration.results.create_target import ConfigDifference, CreateTargetResult, RecipeInfo, Side
from qdrant_model_migration.results.finish import FinishOutcome, FinishPlan, FinishResult
from qdrant_model_migration.results.guidance import GuidanceResult, Section
from qdrant_model_migration.results.inspect import (
    AliasInfo,
    CollectionInfo,
    CollectionSummary,
    Estimates,
    Health,
    InspectResult,
    MigrationSummary,
    PayloadIndex,
    Provenance,
    ServerInfo,
    TextField,
    VectorInfo,
)
from qdrant_model_migration.results.recommend import (
    Card,
    DimensionQuality,
    MapReport,
    Recommendation,
    RecommendResult,
    SourceMatch,
    UsableModel,
)
from qdrant_model_migration.results.requantize import IndexRecall, RecallVariant, RequantizeOutcome
from qdrant_model_migration.results.status import EventInfo, FailedPoint, Lag, Progress, StatusResult, Worker
from qdrant_model_migration.results.swap import AliasQueries, Move, SwapOutcome, SwapPlan, SwapResult, WriteGap
from qdrant_model_migration.results.verify import ProvenanceCheck, Repaired, RepairOutcome, RepairResult, Verification, VerifyResult

__all__ = [
    "AliasInfo",
    "AliasQueries",
    "CandidateRow",
    "Card",
    "ChangedQuery",
    "CollectionInfo",
    "CollectionSummary",
    "CompareResult",
    "Comparison",
    "ConfigDifference",
    "CreateTargetResult",
    "DimensionQuality",
    "Estimates",
    "EventInfo",
    "FailedPoint",
    "FinishOutcome",
    "FinishPlan",
    "FinishResult",
    "GuidanceResult",
    "Health",
    "Hit",
    "IndexRecall",
    "InspectResult",
    "Lag",
    "Latency",
    "MapReport",
    "Metric",
    "MigrationSummary",
    "Move",
    "NextStep",
    "PayloadIndex",
    "Progress",
    "Provenance",
    "ProvenanceCheck",
    "QueryCounts",
    "RecallVariant",
    "RecipeInfo",
    "RecommendResult",
    "Recommendation",
    "RepairOutcome",
    "RepairResult",
    "Repaired",
    "RequantizeOutcome",
    "Result",
    "Section",
    "ServerInfo",
    "Side",
    "Slice",
    "SourceMatch",
    "StatusResult",
    "SwapOutcome",
    "SwapPlan",
    "SwapResult",
    "TextField",
    "UsableModel",
    "VectorInfo",
    "Verification",
    "VerifyResult",
    "Wire",
    "Worker",
    "WriteGap",
    "WriteResult",
]

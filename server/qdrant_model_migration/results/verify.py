"""Is the target complete and right? The answers of verify_target and repair_target, and what the ledger keeps of them."""

from __future__ import annotations

from pydantic import Field

from qdrant_model_migration.results.common import Result, Wire, WriteResult
from qdrant_model_migration.results.create_target import ConfigDifference
from qdrant_model_migration.results.status import Progress


class ProvenanceCheck(Wire):
    sampled: int = 0
    min_cosine: float | None = None
    mean_cosine: float | None = None
    threshold: float | None = None
    wrong: int = 0
    upper_bound: float | None = Field(default=None, description="share of the points that could still be wrong, at 95 % confidence")
    note: str | None = None
    others: int | None = Field(
        default=None,
        description="points that another writer touched since this tool wrote or checked them; null where operations are not numbered (several shards, a cluster, the embedded database)",
    )
    others_checked: int = Field(default=0, description="points of another writer that were embedded again")
    others_wrong: int = 0
    wrong_vectors_of: str | None = Field(default=None, description="whose vectors most of those wrong ones are, where it can be told")

    @property
    def is_rest_own(self) -> bool:
        """Every vector that was not embedded again is this tool's own, made of the text that the point still has."""
        return self.others is not None and self.others == self.others_checked


class Verification(Wire):
    is_complete: bool
    source_points: int
    target_points: int
    missing: int
    extra: int
    changed: int
    accounted: int
    bad_vectors: int
    provenance: ProvenanceCheck
    config_diff: list[ConfigDifference] = []
    is_index_ready: bool
    missing_samples: list[str] = []
    extra_samples: list[str] = []
    changed_samples: list[str] = []
    bad_vector_samples: list[str] = []
    wrong_model_samples: list[str] = []
    sample_reasons: dict[str, str] = Field(default={}, description="what is wrong with each sample, by point id")
    problems: list[str] = []
    at: str = ""
    pass_seconds: float | None = Field(default=None, description="what comparing every point took")
    lease_epoch: int = 0
    source_operation: int | None = Field(default=None, description="number of the last operation on the source before the first look")
    coverage: float | None = Field(
        default=None, description="share of the points that hold a field which is filled after the copy, or in place"
    )


class VerifyResult(Result):
    migration_id: str
    phase: str
    is_complete: bool | None = Field(default=None, description="null while the verification runs")
    source_points: int = 0
    target_points: int = 0
    missing: int = 0
    extra: int = 0
    changed: int = 0
    accounted: int = 0
    bad_vectors: int = 0
    provenance: ProvenanceCheck = ProvenanceCheck()
    config_diff: list[ConfigDifference] = []
    is_index_ready: bool = False
    missing_samples: list[str] = []
    extra_samples: list[str] = []
    changed_samples: list[str] = []
    bad_vector_samples: list[str] = []
    wrong_model_samples: list[str] = []
    sample_reasons: dict[str, str] = Field(default={}, description="what is wrong with each sample, by point id")
    coverage: float | None = Field(
        default=None, description="share of the points that hold a field which is filled after the copy, or in place"
    )
    progress: Progress | None = None


class Repaired(Wire):
    missing: int = 0
    extra: int = 0
    changed: int = 0
    bad_vectors: int = 0
    left: int = Field(default=0, description="differences that kept changing under the repair")


class RepairOutcome(Wire):
    repaired: Repaired
    verification: Verification


class RepairResult(WriteResult):
    migration_id: str
    phase: str
    repaired: Repaired | None = None
    verification: Verification | None = None
    progress: Progress | None = None

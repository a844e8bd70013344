"""Which strategy fits? Observations in, the eight strategies out, ranked, each with its reasons, refusals and risks."""

from __future__ import annotations

from qdrant_model_migration.domain.estimates import HUGE_POINTS, LARGE_BYTES, SMALL_BYTES, human_bytes
from qdrant_model_migration.domain.observations import (
    GUIDANCE,
    IMPLEMENTED,
    STRATEGIES,
    Advice,
    Goal,
    Observations,
    Readers,
    Writes,
    is_matryoshka,
)
from qdrant_model_migration.domain.strategy_rules import RULES

__all__ = [
    "GUIDANCE", "IMPLEMENTED", "IMPLEMENTED_FIRST", "SERVES", "STRATEGIES", "Advice", "Goal", "Observations", "Readers", "Writes",
    "advise", "is_matryoshka", "size_remark",
]  # fmt: skip

SERVES: dict[Goal, tuple[str, ...]] = {
    Goal.REPLACE_MODEL: ("new_collection", "named_vector", "side_by_side", "linear_map"),
    Goal.COMPARE_MODELS: ("named_vector", "side_by_side", "new_collection"),
    Goal.ADD_SPARSE: ("add_sparse",),
    Goal.ADD_MULTIVECTOR: ("add_multivector",),
    Goal.SHRINK_VECTORS: ("truncate", "requantize", "new_collection"),
    Goal.CHANGE_QUANTIZATION: ("requantize",),
}
"""Strategies that reach a goal, the fitting first when nothing speaks against it."""

IMPLEMENTED_FIRST = frozenset({Goal.REPLACE_MODEL, Goal.COMPARE_MODELS})
"""Goals that an implemented strategy reaches as well; for the others it would be another change than the one asked for."""


def advise(seen: Observations) -> list[Advice]:
    """All eight strategies, best first: those that reach the goal and can be done, then the refused ones with their reasons."""
    judged = [_judge(name, seen) for name in STRATEGIES]
    fitting = _preference(seen)

    def key(advice: Advice) -> tuple[bool, bool, bool, int]:
        place = fitting.index(advice.strategy) if advice.strategy in fitting else len(fitting) + STRATEGIES.index(advice.strategy)
        waits = seen.goal in IMPLEMENTED_FIRST and not advice.is_implemented
        return not advice.serves_goal, not advice.is_feasible, waits, place

    ranked = sorted(judged, key=key)
    better = next((a.strategy for name in fitting for a in judged if a.strategy == name and a.is_feasible), None)
    if ranked[0].is_implemented and ranked[0].is_feasible and better not in (None, ranked[0].strategy):
        ranked[0].reasons.append(f"'{better}' would fit better here, but this version only explains it.")
    return ranked


def size_remark(data_bytes: int) -> str | None:
    """What has to be said of very small and very large collections."""
    if data_bytes < SMALL_BYTES:
        return (
            f"{human_bytes(data_bytes)} of vectors and payload is small (below 25 MB): re-indexing from the source of the texts "
            "is simpler than a migration, if that source is at hand."
        )
    if data_bytes >= LARGE_BYTES:
        return (
            f"{human_bytes(data_bytes)} of vectors and payload is very large (400 GB and more): plan for days, for the optimizer's "
            "temporary copies and for a rehearsal on a sample; prefer writes='dual_write'."
        )
    return None


def _preference(seen: Observations) -> tuple[str, ...]:
    names = list(SERVES[seen.goal])
    if seen.goal is Goal.REPLACE_MODEL:
        if seen.readers == "rolling":
            names = ["named_vector", "side_by_side", "new_collection", "linear_map"]
        if seen.collection.points >= HUGE_POINTS:
            names = ["linear_map", *(n for n in names if n != "linear_map")]
    return tuple(names)


def _judge(name: str, seen: Observations) -> Advice:
    advice = Advice(strategy=name, serves_goal=name in SERVES[seen.goal])
    if not advice.serves_goal:
        known = _NOT_FOR_GOAL.get((name, seen.goal))
        advice.refusals.append(known or f"It does not reach the goal '{seen.goal.value}': it {DOES[name]}.")
        advice.is_told = known is not None
        return advice
    if not advice.is_implemented:
        advice.prerequisites.append("A later version of this tool: create_target refuses it for now. By hand: read_guidance.")
    RULES[name](advice, seen)
    if seen.collection.status in ("grey", "red"):
        advice.prerequisites.append(f"Health first: the collection is {seen.collection.status} (inspect_collection tells the remedy).")
    return advice


DOES = {
    "new_collection": "embeds a dense field anew",
    "side_by_side": "adds a second dense model beside the first",
    "named_vector": "adds a second dense model beside the first",
    "add_sparse": "adds sparse vectors for hybrid search",
    "add_multivector": "adds token vectors for reranking",
    "truncate": "shortens the vectors of the same model",
    "linear_map": "approximates the vectors of another model",
    "requantize": "changes quantization, not the model",
}
_NOT_FOR_GOAL = {
    ("new_collection", Goal.ADD_SPARSE): "No substitute: it re-embeds dense vectors and adds no sparse ones; adding sparse vectors re-embeds nothing.",
    ("new_collection", Goal.ADD_MULTIVECTOR): "No substitute: it re-embeds dense vectors and adds no token vectors.",
    ("new_collection", Goal.CHANGE_QUANTIZATION): "Not needed: the server re-quantizes in place from the stored originals; nothing is re-embedded.",
    ("linear_map", Goal.COMPARE_MODELS): "A map approximates the new model; comparing it would not judge the model itself.",
}  # fmt: skip

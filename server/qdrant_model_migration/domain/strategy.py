"""Which strategy fits? Observations in, the eight strategies out, ranked, each with its reasons, refusals and risks."""

from __future__ import annotations

from qdrant_model_migration.domain.estimates import HUGE_POINTS, LARGE_BYTES, SMALL_BYTES, human_bytes
from qdrant_model_migration.domain.observations import STRATEGIES, Advice, Goal, Observations, Readers, Writes, is_matryoshka
from qdrant_model_migration.domain.strategies import STRATEGY
from qdrant_model_migration.domain.strategy_rules import RULES

__all__ = ["SERVES", "STRATEGIES", "Advice", "Goal", "Observations", "Readers", "Writes", "advise", "is_matryoshka", "size_remark"]

SERVES: dict[Goal, tuple[str, ...]] = {
    Goal.REPLACE_MODEL: ("new_collection", "named_vector", "side_by_side", "linear_map"),
    Goal.COMPARE_MODELS: ("named_vector", "side_by_side", "new_collection"),
    Goal.ADD_SPARSE: ("add_sparse",),
    Goal.ADD_MULTIVECTOR: ("add_multivector",),
    Goal.SHRINK_VECTORS: ("truncate", "requantize", "new_collection"),
    Goal.CHANGE_QUANTIZATION: ("requantize",),
}
"""Strategies that reach a goal, the fitting first when nothing speaks against it."""


def advise(seen: Observations) -> list[Advice]:
    """All eight strategies, best first: those that reach the goal and can be done, then the refused ones with their reasons."""
    fitting = preference(seen)
    judged = [_judge(name, seen, serves_goal=name in fitting) for name in STRATEGIES]

    def key(advice: Advice) -> tuple[bool, bool, int]:
        place = fitting.index(advice.strategy) if advice.strategy in fitting else len(fitting) + STRATEGIES.index(advice.strategy)
        return not advice.serves_goal, not advice.is_feasible, place

    return sorted(judged, key=key)


def preference(seen: Observations) -> tuple[str, ...]:
    """The strategies that reach the goal, in the order in which they fit this app and these models, whether or not they can be done."""
    names = list(SERVES[seen.goal])
    if seen.goal is Goal.REPLACE_MODEL:
        if seen.readers == "rolling":
            # Both query models are in use at once: only a collection that holds both fields answers both.
            names = ["named_vector", "side_by_side", "new_collection", "linear_map"]
        if seen.collection.points >= HUGE_POINTS:
            names = ["linear_map", *(n for n in names if n != "linear_map")]
        if seen.has_same_base and seen.is_smaller:
            # The same model at fewer dimensions: what is stored holds the new vectors already, when the model was trained for it.
            names = ["truncate", *names]
    return tuple(names)


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


def _judge(name: str, seen: Observations, *, serves_goal: bool) -> Advice:
    advice = Advice(strategy=name, serves_goal=serves_goal)
    if not serves_goal:
        known = _NOT_FOR_GOAL.get((name, seen.goal))
        advice.refusals.append(known or f"It does not reach the goal '{seen.goal.value}': it {STRATEGY[name].does}.")
        advice.is_told = known is not None
        return advice
    RULES[name](advice, seen)
    if seen.collection.status in ("grey", "red"):
        advice.prerequisites.append(f"Health first: the collection is {seen.collection.status} (inspect_collection tells the remedy).")
    return advice


_NOT_FOR_GOAL = {
    ("new_collection", Goal.ADD_SPARSE): "No substitute: it re-embeds dense vectors and adds no sparse ones; adding sparse vectors re-embeds nothing.",
    ("new_collection", Goal.ADD_MULTIVECTOR): "No substitute: it re-embeds dense vectors and adds no token vectors.",
    ("new_collection", Goal.CHANGE_QUANTIZATION): "Not needed: the server re-quantizes in place from the stored originals; nothing is re-embedded.",
    ("linear_map", Goal.COMPARE_MODELS): "A map approximates the new model; comparing it would not judge the model itself.",
}  # fmt: skip

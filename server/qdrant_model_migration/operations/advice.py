"""How is a judged strategy told? Its card, the exact arguments of the call that begins it, the warnings and the summary."""

from __future__ import annotations

from typing import Any

from qdrant_model_migration.domain.collection import Collection, FieldKind, VectorField
from qdrant_model_migration.domain.estimates import human_bytes, human_seconds
from qdrant_model_migration.domain.findings import provenance_of
from qdrant_model_migration.domain.model import ModelName, ModelSpec
from qdrant_model_migration.domain.observations import Advice, Goal, Observations
from qdrant_model_migration.domain.points import Payload
from qdrant_model_migration.domain.strategies import STRATEGY
from qdrant_model_migration.domain.texts import framework_of
from qdrant_model_migration.operations.cards import Measured, card
from qdrant_model_migration.results import NextStep, Recommendation

ASKS_MODELS = frozenset({Goal.REPLACE_MODEL, Goal.COMPARE_MODELS, Goal.SHRINK_VECTORS})
"""Goals for which a dense model may be named."""


def recommendation(advice: Advice, seen: Observations, measured: Measured, arguments: dict[str, Any]) -> Recommendation:
    """One strategy as it is answered; `arguments` are those that every call for this collection has."""
    return Recommendation(
        strategy=advice.strategy,
        is_feasible=advice.is_feasible,
        reasons=advice.reasons if advice.is_feasible else [],
        refusals=advice.refusals,
        prerequisites=advice.prerequisites if advice.is_feasible else [],
        risks=advice.risks if advice.is_feasible else [],
        card=card(advice, seen, measured),
        guidance=advice.guidance,
        next_step=_step(advice, seen, arguments),
    )


def without_repeats(ranked: list[Recommendation]) -> list[Recommendation]:
    """The same, where a card that rests on the same figures as the first one says only that."""
    if not ranked:
        return []
    first, same = ranked[0], ranked[0].card.measured_from
    for one in ranked[1:]:
        if same and one.card.measured_from == same:
            one.card.measured_from = f"as for '{first.strategy}'"
    return ranked


def _step(advice: Advice, seen: Observations, arguments: dict[str, Any]) -> NextStep | None:
    if advice.is_feasible:
        call = create_arguments(advice, seen, arguments)
        why = "With dry_run=true it is rehearsed; nothing is filled yet."
        return NextStep(tool="create_target", arguments=call, why=why) if call is not None else None
    if advice.needs_comparison and len(advice.refusals) == 1 and seen.current is not None and seen.model is not None:
        kept = {k: v for k, v in arguments.items() if k in ("collection", "connection")}
        call = {**kept, "models": [seen.current.name, seen.model.name]}
        return NextStep(tool="compare_models", arguments=call, why="When it comes out 'equivalent' or 'better', the vectors may be cut.")
    return None


def create_arguments(advice: Advice, seen: Observations, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments of create_target for a feasible strategy; None while a person still has to choose one of them."""
    plan = STRATEGY[advice.strategy]
    call: dict[str, Any] = {k: v for k, v in arguments.items() if k != "texts_file" or plan.needs_text}
    call["strategy"] = advice.strategy
    if plan.made == "truncate":
        if seen.current is None or seen.wanted_dimensions is None:
            return None
        base = ModelName.parse(seen.current.name).model_copy(update={"dimensions": None})
        call |= {"model": str(base), "dimensions": seen.wanted_dimensions}
    elif plan.made is None:
        if advice.quantization is None:
            return None
        call["quantization"] = advice.quantization
    elif seen.model is None:
        return None
    else:
        call["model"] = seen.model.name
        # Of a file it names the column, which has a default.
        if seen.text_field is not None or not seen.has_texts_file:
            call["text_field"] = seen.text_field
    if plan.made is not None and seen.current is not None and (seen.is_current_known or plan.made == "truncate"):
        call["current_model"] = seen.current.name
    return call | {"writes": seen.writes, "readers": seen.readers}


def warnings_of(seen: Observations, ranked: list[Recommendation], current_model: str | None, payloads: list[Payload]) -> list[str]:
    """What a person must hear beside the recommendations."""
    warnings = []
    if seen.match is not None and not seen.match.is_match:
        warnings.append(
            f"The stored vectors could not be shown to be those of '{seen.match.model}' on '{seen.match.text_field}': {'; '.join(seen.match.likely_causes)}. "
            "Find out which before going on; comparison with the old model and carrying writes back are not offered."
        )
    if current_model is None and seen.goal in ASKS_MODELS:
        known = provenance_of(seen.collection, framework_of(payloads))
        if known is not None and known.model:
            warnings.append(
                f"The stored vectors are said to be those of '{known.model}' ({known.source}): pass it as current_model to have that tested."
            )
    best = ranked[0]
    if best.card.truncated_share and seen.model is not None:
        warnings.append(
            f"{best.card.truncated_share:.1%} of the sampled texts are longer than the {seen.model.max_tokens} tokens '{seen.model.name}' reads: it cuts them."
        )
    copies = STRATEGY[best.strategy].placement == "new_collection" and best.is_feasible
    if copies and any(f.kind is not FieldKind.DENSE for f in seen.collection.fields):
        warnings.append("Sparse and multivector fields are copied as they are.")
    return warnings


def label(found: Collection, field: VectorField | None) -> str:
    """A collection for a person."""
    size = f", {field.name or 'unnamed'} vector of {field.size}" if field else ""
    return f"'{found.name}' ({found.points:,} points{size})"


def summary_of(best: Recommendation, found: Collection, field: VectorField | None, spec: ModelSpec | None, goal: Goal) -> str:
    """The answer in one line."""
    if not best.is_feasible:
        return f"No strategy reaches '{goal.value}' for {label(found, field)} as things are: {best.refusals[0]}"
    facts = [f"about {human_seconds(best.card.seconds)}"] if best.card.seconds is not None else []
    facts += [f"{human_bytes(best.card.disk_bytes)} of disk"] if best.card.disk_bytes is not None else []
    facts += [f"USD {best.card.cost_usd:,.2f}"] if best.card.cost_usd is not None else []
    using = f" with '{spec.name}'" if spec and STRATEGY[best.strategy].model_kind else ""
    return f"For {label(found, field)}: '{best.strategy}'{using}" + (f", {', '.join(facts)}." if facts else ".")

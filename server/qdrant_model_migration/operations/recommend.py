"""Which strategy fits, and what would it take? Observes the collection and the models, and asks domain/strategy.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anyio

from qdrant_model_migration.domain.collection import Collection, FieldKind, VectorField
from qdrant_model_migration.domain.estimates import human_bytes, human_seconds, size_of
from qdrant_model_migration.domain.findings import provenance_of
from qdrant_model_migration.domain.model import ModelKind, ModelSpec
from qdrant_model_migration.domain.points import Payload
from qdrant_model_migration.domain.strategy import Advice, Goal, Observations, Readers, Writes, advise, size_remark
from qdrant_model_migration.domain.texts import TextSource, framework_of
from qdrant_model_migration.embedders.base import AnyEmbedder
from qdrant_model_migration.errors import MigrationError, NotFound, Refused, TransientEmbedding, Unsupported
from qdrant_model_migration.operations.cards import Measured, card
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.overview import connection_argument, resolve_allowed
from qdrant_model_migration.operations.sampling import Timing, chosen_text, payload_bytes, sample_points, time_model
from qdrant_model_migration.operations.source_match import BUDGET_S, source_match
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import NextStep, Recommendation, RecommendResult, SourceMatch, UsableModel

SAMPLE = 256
TIMED_TEXTS = 512
ANSWER_S = 36.0
TIMING_S = 4.0
MAX_MODELS = 20

_REPLACES = frozenset({Goal.REPLACE_MODEL, Goal.COMPARE_MODELS})
_ADDS = {Goal.ADD_SPARSE: ModelKind.SPARSE, Goal.ADD_MULTIVECTOR: ModelKind.MULTIVECTOR}
_ASKS_MODELS = _REPLACES | {Goal.SHRINK_VECTORS, *_ADDS}


async def recommend(
    context: OperationContext,
    *,
    collection: str,
    goal: str,
    model: str | None = None,
    current_model: str | None = None,
    text_field: str | None = None,
    vector: str | None = None,
    writes: Writes = "live",
    readers: Readers = "one_deploy",
    connection: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> RecommendResult:
    """Rank the strategies for a goal and a model. Reads only; embeds a bounded sample to measure time and tokens.

    Raises:
        NotFound: no such collection or model; near misses are listed.
        Refused: unknown goal, empty collection, no dense vector, or a text field that no sampled point has.
        EmbeddingError: the new model cannot be loaded or fails.
    """
    deadline = clock() + ANSWER_S
    aim = _goal(goal)
    gateway = await context.gateway(connection)
    facts = await gateway.facts()
    name, alias = await resolve_allowed(context, gateway, collection)
    found = await gateway.describe(name)
    found = found.model_copy(update={"points": await gateway.points.count(name)})
    if not found.points:
        raise Refused(f"Nothing was changed: {name!r} is empty, so there is nothing to migrate. Create it anew with the new model.")
    field = _field(found, aim, vector)
    payloads = [p.payload for p in await sample_points(gateway, found, SAMPLE)]
    text = chosen_text(found, payloads, text_field, is_needed=aim is not Goal.CHANGE_QUANTIZATION)
    warnings = [remark] if (remark := size_remark(_data_bytes(found, payloads))) else []
    notice = context.notice(gateway.connection.name)
    if model is None and aim in _REPLACES:
        models = await _models(context, aim)
        summary = f"{notice}Choose a model for {_label(found, field)}, then call again with 'model'. {len(models)} are usable here."
        return RecommendResult(summary=summary, warnings=warnings, models=models)

    embedder, spec = await _new_model(context, model, aim, connection, warnings)
    timing = await _timed(embedder, text.texts, warnings)
    current, match = await _tested(context, gateway, found, field, text.source, current_model, deadline - clock(), warnings)
    seen = Observations(
        goal=aim,
        server=facts.version,
        capabilities=frozenset(facts.capabilities),
        is_embedded=facts.is_embedded,
        collection=found,
        data_bytes=_data_bytes(found, payloads),
        field=field,
        text_field=text.source.expression if text.source else None,
        text_coverage=text.coverage,
        model=spec,
        current=current,
        match=match,
        writes=writes,
        readers=readers,
        has_alias=alias is not None or bool(found.aliases),
    )
    configured = context.settings.models.get(spec.name) if spec else None
    measured = Measured(timing=timing, payload_each=payload_bytes(payloads), payloads=len(payloads), settings=configured)
    arguments = {"collection": alias or name, **connection_argument(gateway.connection.name)}
    if vector is not None:
        arguments["vector"] = vector
    # One that is only said not to reach the goal would be noise; one that explains why it is no substitute is not.
    ranked = [_recommendation(a, seen, measured, arguments) for a in advise(seen) if a.is_told]
    best = ranked[0]
    warnings += _warnings(seen, ranked, current_model, payloads)
    is_doubtful = match is not None and not match.is_match
    return RecommendResult(
        summary=notice + _summary(best, found, field, spec, aim),
        warnings=warnings,
        # A wrong text field or model would be repeated in the new vectors: a person looks at the causes first.
        next_step=None if is_doubtful else best.next_step,
        source_match=match,
        recommendations=ranked,
        models=await _models(context, aim) if model is None and aim in _ASKS_MODELS else [],
    )


def _goal(goal: str) -> Goal:
    try:
        return Goal(goal)
    except ValueError:
        raise Refused(f"Nothing was done: there is no goal {goal!r}. The goals: {', '.join(g.value for g in Goal)}.") from None


def _field(found: Collection, goal: Goal, vector: str | None) -> VectorField | None:
    if goal in _ADDS and vector is None:
        return found.dense[0] if found.dense else None
    if goal is Goal.CHANGE_QUANTIZATION and vector is None and found.dense:
        return found.dense[0]
    return found.field_to_replace(vector)


def _data_bytes(found: Collection, payloads: list[Payload]) -> int:
    return size_of(found.points, found.fields, found.config, payload_bytes(payloads)).data_bytes


async def _models(context: OperationContext, goal: Goal) -> list[UsableModel]:
    usable = await context.catalogue.usable(_ADDS.get(goal, ModelKind.DENSE))
    return [
        UsableModel(name=u.name, kind=str(u.kind), dimensions=u.dimensions, max_tokens=u.max_tokens, is_ready=u.is_ready, note=u.note)
        for u in usable[:MAX_MODELS]
    ]


async def _new_model(
    context: OperationContext, model: str | None, goal: Goal, connection: str | None, warnings: list[str]
) -> tuple[AnyEmbedder | None, ModelSpec | None]:
    if model is None:
        return None, None
    try:
        embedder = await (context.any_model(model, connection) if goal in _ADDS else context.model(model, connection))
    except Unsupported as error:
        if goal not in _ADDS:
            raise
        # The strategy is explained all the same; only its time cannot be measured here.
        warnings.append(f"{model!r} was not measured. {error}")
        return None, ModelSpec(name=model, kind=_ADDS[goal])
    if goal in _ADDS and embedder.spec.kind is not _ADDS[goal]:
        raise Refused(
            f"Nothing was changed: {model!r} is a {embedder.spec.kind} model, and the goal {str(goal)!r} needs a {_ADDS[goal]} one."
        )
    return embedder, embedder.spec


async def _timed(embedder: AnyEmbedder | None, texts: list[str], warnings: list[str]) -> Timing | None:
    if embedder is None or not texts:
        return None
    try:
        return await time_model(embedder, texts[:TIMED_TEXTS], budget_s=TIMING_S)
    except TransientEmbedding as error:
        warnings.append(f"The time was not measured: {error}")
        return None


async def _tested(
    context: OperationContext,
    gateway: Gateway,
    found: Collection,
    field: VectorField | None,
    text: TextSource | None,
    current_model: str | None,
    left_s: float,
    warnings: list[str],
) -> tuple[ModelSpec | None, SourceMatch | None]:
    """The stated current model, and whether its vectors are the stored ones. What hinders the test is a warning."""
    if current_model is None or field is None:
        return None, None
    try:
        with anyio.move_on_after(max(1.0, left_s)):
            embedder = await context.model(current_model)
            if text is None:
                warnings.append(f"current_model {current_model!r} could not be tested: no text was found to embed again.")
                return embedder.spec, None
            return embedder.spec, await source_match(
                context, gateway, found, field, text, current_model, budget_s=min(BUDGET_S, max(1.0, left_s - 4))
            )
        warnings.append(f"current_model {current_model!r} was not tested within the time of this call; call again.")
    except (NotFound, Refused):
        raise
    except MigrationError as error:
        warnings.append(f"current_model {current_model!r} was not tested, so nothing that needs it is offered. {error}")
    return None, None


def _recommendation(advice: Advice, seen: Observations, measured: Measured, arguments: dict[str, Any]) -> Recommendation:
    step = None
    if advice.is_feasible and advice.is_implemented and seen.model is not None:
        call = {**arguments, "strategy": advice.strategy, "model": seen.model.name, "text_field": seen.text_field}
        if seen.is_current_known and seen.current is not None:
            call["current_model"] = seen.current.name
        call |= {"writes": seen.writes, "readers": seen.readers}
        step = NextStep(
            tool="create_target", arguments=call, why="It rehearses with dry_run=true; without it the target is created, still empty."
        )
    return Recommendation(
        strategy=advice.strategy,
        is_feasible=advice.is_feasible,
        is_implemented=advice.is_implemented,
        reasons=advice.reasons,
        refusals=advice.refusals,
        prerequisites=advice.prerequisites if advice.is_feasible else [],
        risks=advice.risks if advice.is_feasible else [],
        card=card(advice, seen, measured),
        guidance=advice.guidance,
        next_step=step,
    )


def _warnings(seen: Observations, ranked: list[Recommendation], current_model: str | None, payloads: list[Payload]) -> list[str]:
    warnings = []
    if seen.match is not None and not seen.match.is_match:
        warnings.append(
            f"The stored vectors could not be shown to be those of '{seen.match.model}' on '{seen.match.text_field}': {'; '.join(seen.match.likely_causes)}. "
            "Find out which before going on; comparison with the old model and carrying writes back are not offered."
        )
    if current_model is None and seen.goal in _ASKS_MODELS:
        known = provenance_of(seen.collection, framework_of(payloads))
        if known is not None and known.model:
            warnings.append(
                f"The stored vectors are said to be those of '{known.model}' ({known.source}): pass it as current_model to have that tested."
            )
    best = ranked[0]
    if best.is_feasible and not best.is_implemented:
        warnings.append(
            f"'{best.strategy}' fits best, but this version explains it only; create_target refuses it. By hand: read_guidance('{best.strategy}')."
        )
    if best.card.truncated_share and seen.model is not None:
        warnings.append(
            f"{best.card.truncated_share:.1%} of the sampled texts are longer than the {seen.model.max_tokens} tokens '{seen.model.name}' reads: it cuts them."
        )
    if any(f.kind is not FieldKind.DENSE for f in seen.collection.fields) and best.strategy == "new_collection" and best.is_feasible:
        warnings.append("Sparse and multivector fields are copied as they are.")
    return warnings


def _label(found: Collection, field: VectorField | None) -> str:
    size = f", {field.name or 'unnamed'} vector of {field.size}" if field else ""
    return f"'{found.name}' ({found.points:,} points{size})"


def _summary(best: Recommendation, found: Collection, field: VectorField | None, spec: ModelSpec | None, goal: Goal) -> str:
    if not best.is_feasible:
        return f"No strategy reaches '{goal.value}' for {_label(found, field)} as things are: {best.refusals[0]}"
    facts = [f"about {human_seconds(best.card.seconds)}"] if best.card.seconds is not None else []
    facts += [f"{human_bytes(best.card.disk_bytes)} of disk"] if best.card.disk_bytes is not None else []
    facts += [f"USD {best.card.cost_usd:,.2f}"] if best.card.cost_usd is not None else []
    using = f" with '{spec.name}'" if spec else ""
    note = "" if best.is_implemented else " (explained, not yet carried out by this version)"
    return f"For {_label(found, field)}: '{best.strategy}'{using}{note}" + (f", {', '.join(facts)}." if facts else ".")

"""Which strategy fits, and what would it take? Observes the collection and the models, and asks domain/strategy.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anyio

from qdrant_model_migration.domain.collection import Collection, VectorField
from qdrant_model_migration.domain.estimates import foreign_letters, size_of
from qdrant_model_migration.domain.model import ModelKind, ModelSpec
from qdrant_model_migration.domain.points import Payload, Point
from qdrant_model_migration.domain.strategy import Goal, Observations, Readers, Writes, advise, size_remark
from qdrant_model_migration.domain.texts import Texts
from qdrant_model_migration.domain.texts_file import coverage
from qdrant_model_migration.errors import MigrationError, NotFound, Refused
from qdrant_model_migration.operations.advice import label, recommendation, summary_of, warnings_of, without_repeats
from qdrant_model_migration.operations.cards import Measured
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.new_model import ADDS, check_kind, default_model, new_model, rows_of, timed
from qdrant_model_migration.operations.overview import connection_argument, resolve_allowed
from qdrant_model_migration.operations.sampling import ChosenText, chosen_text, payload_bytes, sample_points
from qdrant_model_migration.operations.shortening import measure_dimensions
from qdrant_model_migration.operations.source_match import BUDGET_S, source_match
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import DimensionQuality, RecommendResult, SourceMatch, UsableModel

SAMPLE = 256
ANSWER_S = 36.0
MEASURING_S = 5.0
NEW_MODEL_S = 18.0
"""Kept for loading and timing the new model, however long the test of the current one takes."""
MAX_MODELS = 20

_NEEDS_NO_TEXT = frozenset({Goal.SHRINK_VECTORS, Goal.CHANGE_QUANTIZATION})

_NEEDS_MODEL = frozenset({Goal.REPLACE_MODEL, Goal.COMPARE_MODELS, *ADDS})


async def recommend(
    context: OperationContext,
    *,
    collection: str,
    goal: str,
    model: str | None = None,
    current_model: str | None = None,
    text_field: str | None = None,
    texts_file: str | None = None,
    vector: str | None = None,
    writes: Writes = "live",
    readers: Readers = "one_deploy",
    connection: str | None = None,
    target_connection: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> RecommendResult:
    """Rank the strategies for a goal and a model. Reads only; embeds a bounded sample to measure time and tokens.

    Raises:
        NotFound: no such collection, connection or model; near misses are listed.
        Refused: unknown goal, empty collection, no dense vector, a text field that no sampled point has, or an unusable texts file.
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
    points = await sample_points(gateway, found, SAMPLE)
    payloads = [p.payload for p in points]
    text = await _texts(context, found, points, text_field, texts_file, is_needed=aim not in _NEEDS_NO_TEXT)
    warnings = [remark] if (remark := size_remark(_data_bytes(found, payloads))) else []
    notice = context.notice(gateway.connection.name)
    target = await _target(context, gateway, target_connection)
    side = await target.facts() if target is not None else facts
    wanted = default_model(model, aim, side)
    if wanted is None and aim in _NEEDS_MODEL:
        models = await _models(context, aim)
        summary = f"{notice}Choose a model for {label(found, field)}, then call again with 'model'. {len(models)} are usable here."
        return RecommendResult(summary=summary, warnings=warnings, models=models)

    current, match = await _tested(context, gateway, found, field, text.source, current_model, deadline - clock() - NEW_MODEL_S, warnings)
    chosen = await new_model(context, wanted, (target or gateway).connection.name, current)
    check_kind(chosen.spec, aim)
    timing = await timed(chosen.embedder, text.texts, warnings, within_s=deadline - clock())
    qualities = await _qualities(gateway, found, field, aim, deadline - clock())
    seen = Observations(
        goal=aim,
        server=facts.version,
        capabilities=frozenset(facts.capabilities),
        is_embedded=facts.is_embedded,
        target_server=side.version if target is not None else None,
        target_capabilities=frozenset(side.capabilities) if target is not None else None,
        is_target_embedded=side.is_embedded and target is not None,
        is_target_cluster=side.is_cluster,
        collection=found,
        data_bytes=_data_bytes(found, payloads),
        field=field,
        text_field=text_field if texts_file is not None else text.source.expression if text.source else None,
        has_texts_file=texts_file is not None,
        text_coverage=text.coverage,
        foreign_letters=foreign_letters(text.texts),
        model=chosen.spec,
        model_problem=chosen.problem,
        current=current,
        match=match,
        rows=rows_of(chosen.spec, timing, text.texts),
        cut=_at(qualities, chosen.spec),
        has_passed_comparison=await _has_passed(context, gateway, name, current, chosen.spec),
        writes=writes,
        readers=readers,
        has_alias=alias is not None or bool(found.aliases),
    )
    configured = context.settings.models.get(chosen.spec.name) if chosen.spec else None
    measured = Measured(timing=timing, payload_each=payload_bytes(payloads), payloads=len(payloads), settings=configured)
    arguments: dict[str, Any] = {"collection": alias or name, **connection_argument(gateway.connection.name)}
    if target is not None:
        arguments["target_connection"] = target.connection.name
    if vector is not None:
        arguments["vector"] = vector
    if texts_file is not None:
        arguments["texts_file"] = texts_file
    # One that is only said not to reach the goal would be noise; one that explains why it is no substitute is not.
    ranked = without_repeats([recommendation(a, seen, measured, arguments) for a in advise(seen) if a.is_told])
    best = ranked[0]
    warnings += warnings_of(seen, ranked, current_model, payloads)
    is_doubtful = match is not None and not match.is_match
    return RecommendResult(
        summary=notice + summary_of(best, found, field, chosen.spec, aim),
        warnings=warnings,
        # A wrong text field or model would be repeated in the new vectors: a person looks at the causes first.
        next_step=None if is_doubtful else best.next_step,
        source_match=match,
        recommendations=ranked,
        dimensions=qualities,
        models=await _models(context, aim) if model is None and aim is not Goal.CHANGE_QUANTIZATION else [],
    )


def _goal(goal: str) -> Goal:
    try:
        return Goal(goal)
    except ValueError:
        raise Refused(f"Nothing was done: there is no goal {goal!r}. The goals: {', '.join(g.value for g in Goal)}.") from None


def _field(found: Collection, goal: Goal, vector: str | None) -> VectorField | None:
    if goal in ADDS and vector is None:
        return found.dense[0] if found.dense else None
    if goal is Goal.CHANGE_QUANTIZATION and vector is None and found.dense:
        return found.dense[0]
    return found.field_to_replace(vector)


def _data_bytes(found: Collection, payloads: list[Payload]) -> int:
    return size_of(found.points, found.fields, found.config, payload_bytes(payloads)).data_bytes


async def _models(context: OperationContext, goal: Goal) -> list[UsableModel]:
    usable = await context.catalogue.usable(ADDS.get(goal, ModelKind.DENSE))
    return [
        UsableModel(name=u.name, kind=str(u.kind), dimensions=u.dimensions, max_tokens=u.max_tokens, is_ready=u.is_ready, note=u.note)
        for u in usable[:MAX_MODELS]
    ]


async def _texts(
    context: OperationContext, found: Collection, points: list[Point], text_field: str | None, texts_file: str | None, *, is_needed: bool
) -> ChosenText:
    """The sampled texts, from the payload or from the file.

    Raises:
        Refused: none of the sampled points has a text where it was said to be.
    """
    if texts_file is None:
        return chosen_text(found, [p.payload for p in points], text_field, is_needed=is_needed)
    file = await context.texts_file(texts_file, text_field)
    covered = coverage(file, points)
    if is_needed and (why := covered.refusal(file.recorded, found.name)) is not None:
        raise Refused(why)
    texts = [t for p in points if (t := file.of(p)) is not None]
    return ChosenText(source=file if texts else None, coverage=covered.share, texts=texts)


async def _qualities(gateway: Gateway, found: Collection, field: VectorField | None, goal: Goal, left_s: float) -> list[DimensionQuality]:
    """What shortened vectors still find, where that is the question."""
    if goal is not Goal.SHRINK_VECTORS or field is None or left_s < MEASURING_S:
        return []
    return await measure_dimensions(gateway, found, field, budget_s=min(MEASURING_S, left_s - 2))


def _at(qualities: list[DimensionQuality], spec: ModelSpec | None) -> DimensionQuality | None:
    """What was measured at the model's dimensions, or at the next smaller ones: longer vectors find no less."""
    wanted = spec.dimensions if spec and spec.dimensions else 0
    return max((q for q in qualities if q.dimensions <= wanted), key=lambda q: q.dimensions, default=None)


async def _has_passed(context: OperationContext, source: Gateway, name: str, current: ModelSpec | None, spec: ModelSpec | None) -> bool:
    """Whether a comparison of these two models on this collection came out well; it is kept beside the collection."""
    if current is None or spec is None:
        return False
    found = await (await context.ledger(source.connection.name)).evidence(name, current.name, spec.name)
    return found is not None and found.verdict in ("better", "equivalent")


async def _target(context: OperationContext, source: Gateway, target_connection: str | None) -> Gateway | None:
    """The gateway of another server; None when the target lies beside the source."""
    if target_connection in (None, source.connection.name):
        return None
    return await context.gateway(target_connection)


async def _tested(
    context: OperationContext,
    gateway: Gateway,
    found: Collection,
    field: VectorField | None,
    text: Texts | None,
    current_model: str | None,
    left_s: float,
    warnings: list[str],
) -> tuple[ModelSpec | None, SourceMatch | None]:
    """The stated current model, and whether its vectors are the stored ones. What hinders the test is a warning."""
    if current_model is None or field is None:
        return None, None
    try:
        with anyio.move_on_after(max(1.0, left_s)):
            embedder = await context.model(current_model, gateway.connection.name)
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

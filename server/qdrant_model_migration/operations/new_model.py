"""Which new model is meant, can it be used here, and how fast is it? Asked of the catalogue and timed on sampled texts."""

from __future__ import annotations

from dataclasses import dataclass

import anyio

from qdrant_model_migration.domain.estimates import mean_words
from qdrant_model_migration.domain.model import ModelKind, ModelSpec
from qdrant_model_migration.domain.strategy import Goal
from qdrant_model_migration.embedders.base import AnyEmbedder
from qdrant_model_migration.errors import BatchTooLarge, ModelNotUsable, Refused, TransientEmbedding
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.sampling import Timing, time_model
from qdrant_model_migration.qdrant.gateway import ServerFacts

TIMED_TEXTS = 512
TIMING_S = 4.0
ADDS = {Goal.ADD_SPARSE: ModelKind.SPARSE, Goal.ADD_MULTIVECTOR: ModelKind.MULTIVECTOR}
"""Goals that need another kind of model than a dense one."""


def default_model(model: str | None, goal: Goal, side: ServerFacts) -> str | None:
    """What is meant when hybrid search is wished and no model named: BM25, by the server where it can."""
    if model is not None or goal is not Goal.ADD_SPARSE:
        return model
    return "qdrant:bm25" if side.can("server_bm25") else None


@dataclass(frozen=True, kw_only=True)
class NewModel:
    """The new model, as far as it is known and can be used here."""

    embedder: AnyEmbedder | None = None
    spec: ModelSpec | None = None
    problem: str | None = None


async def new_model(context: OperationContext, model: str | None, connection: str, current: ModelSpec | None) -> NewModel:
    """Load and measure the model, if one is named; `connection` is the one whose server computes a server-side model.

    Raises:
        NotFound, Refused, ModelNotUsable, Unsupported: there is no such model, or it cannot be used here.
    """
    if model is None:
        return NewModel()
    name = await anyio.to_thread.run_sync(context.catalogue.resolve, model)
    if context.catalogue.is_server_bm25(name):
        # Loading it would write to a scratch collection, and there is nothing to learn.
        return NewModel(spec=ModelSpec(name=str(name), kind=ModelKind.SPARSE, is_server_side=True, modifier="idf"))
    try:
        embedder = await context.any_model(model, connection)
    except (ModelNotUsable, Refused) as error:
        # Stored vectors can be cut although the model itself cannot be asked for fewer dimensions.
        if current is None or name.dimensions is None or str(name.model_copy(update={"dimensions": None})) != current.name:
            raise
        spec = current.model_copy(update={"name": f"{current.name}@{name.dimensions}", "dimensions": name.dimensions})
        return NewModel(spec=spec, problem=str(error))
    return NewModel(embedder=embedder, spec=embedder.spec)


def check_kind(spec: ModelSpec | None, goal: Goal) -> None:
    """A model of another kind was named by mistake: its figures would help nobody.

    Raises:
        Refused: names the kind that the goal needs, and the goal that the model serves.
    """
    needed = ADDS.get(goal, ModelKind.DENSE)
    if spec is None or spec.kind is needed or goal is Goal.CHANGE_QUANTIZATION:
        return
    serves = next((g.value for g, kind in ADDS.items() if kind is spec.kind), Goal.REPLACE_MODEL.value)
    raise Refused(
        f"Nothing was done: {spec.name!r} is a {spec.kind} model, and a {needed} one is needed for goal '{goal.value}'. It serves goal={serves!r}."
    )


def rows_of(spec: ModelSpec | None, timing: Timing | None, texts: list[str]) -> float | None:
    """Token vectors or sparse entries of a text, from the sample."""
    if timing is not None and timing.rows is not None:
        return timing.rows
    return mean_words(texts) if spec is not None and spec.kind is ModelKind.SPARSE else None


async def timed(embedder: AnyEmbedder | None, texts: list[str], warnings: list[str], *, within_s: float) -> Timing | None:
    """The model's speed on this machine; what hinders the measuring is a warning."""
    if embedder is None or not texts:
        return None
    try:
        with anyio.move_on_after(max(1.0, within_s)):
            return await time_model(embedder, texts[:TIMED_TEXTS], budget_s=TIMING_S)
        warnings.append(f"The time was not measured: '{embedder.spec.name}' did not embed the first texts within the time of this call.")
    except (TransientEmbedding, BatchTooLarge) as error:
        warnings.append(f"The time was not measured: {error}")
    return None

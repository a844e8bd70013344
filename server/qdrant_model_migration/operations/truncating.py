"""May the stored vectors be cut? Only those of a model that was trained for it, or after a comparison on this data has passed."""

from __future__ import annotations

import anyio

from qdrant_model_migration.domain.collection import Collection, VectorField
from qdrant_model_migration.domain.derived import check_datatype
from qdrant_model_migration.domain.model import ModelName, ModelSpec
from qdrant_model_migration.domain.observations import is_matryoshka
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.results import SourceMatch

NOTHING = "Nothing was changed"


def truncated_model(model: str | None, current: str | None, dimensions: int | None) -> str:
    """The current model asked for fewer dimensions: what queries are embedded with afterwards.

    Raises:
        Refused: the current model or the dimensions are not said, or another model is named.
    """
    if current is None:
        raise Refused(f"{NOTHING}: 'current_model' is missing. Only vectors of a known model may be cut, and its queries are cut alike.")
    base = ModelName.parse(current)
    named = ModelName.parse(model) if model is not None else base
    if model is not None and (named.model != base.model or (named.provider or base.provider) != (base.provider or named.provider)):
        raise Refused(f"{NOTHING}: {model!r} is another model than {current!r}; its vectors cannot be had by cutting. Leave 'model' out.")
    stated = named.dimensions if model is not None else None
    if stated is not None and dimensions is not None and stated != dimensions:
        raise Refused(f"{NOTHING}: dimensions are stated twice, in 'model' ({model!r}) and in 'dimensions' ({dimensions}).")
    wanted = dimensions or stated
    if wanted is None:
        raise Refused(
            f"{NOTHING}: 'dimensions' is missing. recommend_strategy with goal='shrink_vectors' measures how much is found at several sizes."
        )
    return str(base.model_copy(update={"dimensions": wanted}))


async def check_truncation(
    context: OperationContext,
    connection: str,
    source: Collection,
    field: VectorField,
    spec: ModelSpec,
    current: str | None,
    match: SourceMatch | None,
) -> None:
    """Refuse a cut that nothing speaks for; a comparison that does is kept on the source's `connection`, where it was made.

    Raises:
        Refused: not fewer dimensions, vectors of another model, stored as bytes, or neither a Matryoshka model nor a comparison that passed.
    """
    if field.size is not None and (spec.dimensions or 0) >= field.size:
        raise Refused(f"{NOTHING}: {spec.dimensions} dimensions are not fewer than the {field.size} stored.")
    check_datatype(field.datatype)
    if match is not None and not match.is_match:
        raise Refused(
            f"{NOTHING}: the stored vectors could not be shown to be those of {match.model!r} on {match.text_field!r} "
            f"({'; '.join(match.likely_causes) or 'no likely cause'}), so it says nothing about cutting them."
        )
    if is_matryoshka(spec.name):
        return
    # Comparisons keep it under the names of the loaded models, beside the collection that they sampled.
    baseline = str(await anyio.to_thread.run_sync(context.catalogue.resolve, current or ""))
    evidence = await (await context.ledger(connection)).evidence(source.name, baseline, spec.name)
    if evidence is not None and evidence.verdict in ("better", "equivalent"):
        return
    found = (
        f"The comparison of {evidence.at} was {evidence.verdict}: {evidence.text}."
        if evidence is not None
        else "No comparison of the two was made on this collection."
    )
    raise Refused(
        f"{NOTHING}: {current!r} is not known to be a Matryoshka model, whose first numbers mean most; cut vectors of another may be useless. {found} "
        f"compare_models(collection={source.name!r}, models=[{current!r}, {spec.name!r}]) must come out 'equivalent' or 'better' within the margin first."
    )

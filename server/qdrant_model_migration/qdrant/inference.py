"""Which vectors does this Qdrant itself make of texts? Written as `Document`s into a scratch collection, and read back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qdrant_model_migration.domain.collection import Json
from qdrant_model_migration.domain.model import ModelKind, Side
from qdrant_model_migration.domain.points import Point, ServerText
from qdrant_model_migration.errors import ModelNotUsable, Unsupported
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.qdrant.probe import scratch

FIELD = "v"
_BM25 = "qdrant/bm25"


class ServerInference:
    """Embeds texts by one Qdrant; what a server-side model is given as `infer`. Costs a scratch collection a call."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, documents: Sequence[ServerText], side: Side, kind: ModelKind, dimensions: int | None) -> list[Any]:
        """One vector a text: numbers, `{"indices": …, "values": …}` or rows of numbers, by the kind.

        A document's vector is read back. A query's is not stored anywhere: of BM25 it is known to be the document's indices, each of
        weight 1; of a dense model each number is the score of a unit vector by dot product; of others it cannot be had.

        Raises:
            Unsupported: this Qdrant is too old, or embedded.
            ModelNotUsable: it has no such model, or this is the query side of a model that does not show it.
            RequestRejected: it refuses a text, an option or the number of dimensions.
        """
        await self._require(documents)
        is_bm25 = all(document.model == _BM25 for document in documents)
        if side is Side.QUERY and kind is not ModelKind.DENSE and not is_bm25:
            raise ModelNotUsable(
                f"Qdrant does not show the {kind} vector that it makes of a query with {documents[0].model!r}; search with the text itself."
            )
        try:
            async with scratch(self._gateway, _creation(kind, dimensions)) as name:
                if side is Side.QUERY and not is_bm25:
                    return await self._queries(name, documents, dimensions or 0)
                points = self._gateway.points
                await points.write(name, [Point(id=i, payload={}, vectors={FIELD: document}) for i, document in enumerate(documents)])
                found = await points.retrieve(name, range(len(documents)), payload=False, vectors=[FIELD])
        except Unsupported as error:
            raise ModelNotUsable(f"Model {documents[0].model!r} cannot be used. {error}") from None
        vectors = [found[i].vectors[FIELD] for i in range(len(documents))]
        return [{"indices": v["indices"], "values": [1.0] * len(v["indices"])} for v in vectors] if side is Side.QUERY else vectors

    async def _require(self, documents: Sequence[ServerText]) -> None:
        facts = await self._gateway.facts()
        if facts.is_embedded:
            bm25 = " 'fastembed:Qdrant/bm25' computes BM25 on this machine." if documents[0].model == _BM25 else ""
            raise Unsupported(
                f"Nothing was changed: the embedded database computes no vectors, {documents[0].model!r} needs a server.{bm25}"
            )
        await self._gateway.require("server_bm25", "a model that the server computes")

    async def _queries(self, name: str, documents: Sequence[ServerText], dimensions: int) -> list[Any]:
        points = self._gateway.points
        units = [Point(id=i, payload={}, vectors={FIELD: [float(i == j) for j in range(dimensions)]}) for i in range(dimensions)]
        for start in range(0, dimensions, _UNITS_AT_ONCE):
            await points.write(name, units[start : start + _UNITS_AT_ONCE])
        vectors: list[Any] = []
        for document in documents:
            hits = await points.search(name, document, using=FIELD, limit=dimensions, exact=True, payload=False)
            scores = {hit.id: hit.score for hit in hits}
            vectors.append([scores[i] for i in range(dimensions)])
        return vectors


_UNITS_AT_ONCE = 256


def _creation(kind: ModelKind, dimensions: int | None) -> Json:
    """Of dense fields with the dot product, which keeps a vector as it came: for cosine Qdrant would normalise it."""
    if kind is ModelKind.SPARSE:
        return {"vectors": {}, "sparse_vectors": {FIELD: {}}}
    field: Json = {"size": dimensions, "distance": "Dot"}
    if kind is ModelKind.MULTIVECTOR:
        field["multivector_config"] = {"comparator": "max_sim"}
    return {"vectors": {FIELD: field}}

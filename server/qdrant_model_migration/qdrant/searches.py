"""How are several searches made as one? Fused by reciprocal ranks, reranked by another field, or as the app's own template says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qdrant_client import models

from qdrant_model_migration.domain.points import ServerText
from qdrant_model_migration.domain.search_template import Search
from qdrant_model_migration.errors import NotFound, RequestRejected
from qdrant_model_migration.qdrant import templates, translate
from qdrant_model_migration.qdrant.client import Caller
from qdrant_model_migration.qdrant.points import Found, Query, search_params


class Searches:
    """Searches in two steps; the hits come without payloads."""

    def __init__(self, caller: Caller) -> None:
        self._call = caller

    async def hybrid(
        self, collection: str, dense: Query, sparse: Query, *, using: str, sparse_using: str, depth: int, limit: int, exact: bool
    ) -> list[Found]:
        """Two searches, `depth` hits of each, fused by reciprocal ranks (RRF). Servers order equal scores anew with every call.

        An empty sparse query (nothing of the text counts) finds nothing, and the dense hits stay.
        """
        prefetch = [self._prefetch(query, field, depth, exact=exact) for query, field in ((dense, using), (sparse, sparse_using))]
        return await self._found(collection, prefetch, models.FusionQuery(fusion=models.Fusion.RRF), None, limit=limit, exact=exact)

    async def rerank(
        self, collection: str, dense: Query, tokens: Query, *, using: str, tokens_using: str, depth: int, limit: int, exact: bool
    ) -> list[Found]:
        """A search whose best `depth` hits are ordered anew by a multivector field."""
        prefetch = [self._prefetch(dense, using, depth, exact=exact)]
        return await self._found(collection, prefetch, translate.value(tokens), tokens_using, limit=limit, exact=exact)

    async def templated(
        self, collection: str, search: Search, vectors: Mapping[str, Query], documents: Sequence[ServerText], *, limit: int, exact: bool
    ) -> list[Found]:
        """A search as the app makes it; `vectors` by field. `exact` has every part of it look at the original vectors."""
        asked = templates.request(search, vectors, documents, limit=limit, exact=exact, is_embedded=self._call.connection.is_embedded)
        answer = await self._call(lambda: self._call.fast.query_points(collection, **asked))
        return [Found(id=translate.plain_id(p.id) or 0, score=p.score, payload={}) for p in answer.points]

    async def server_ms(self, collection: str, query: Query, *, using: str, limit: int) -> float:
        """Milliseconds that the server says one search took, tried once: what the way there costs, and who else runs here, is no part of it.

        Raises:
            MigrationError: as any request.
        """
        request = models.QueryRequest(query=translate.value(query), using=using or None, limit=limit, with_payload=False)
        api = self._call.rest.http.search_api
        answer = await self._call.once(lambda: api.query_points(collection_name=collection, query_request=request))
        return 1000.0 * (answer.time or 0.0)

    async def through_alias(self, alias: str, queries: Mapping[str, tuple[str, Query]]) -> None:
        """Look where an alias leads, then search that collection by its name, with a vector of its own: (vector name, vector). Each tried once.

        Raises:
            NotFound: the alias leads to none of `queries`.
            MigrationError: as any request.
        """
        listed = await self._call.once(self._call.rest.get_aliases)
        collection = next((a.collection_name for a in listed.aliases if a.alias_name == alias), None)
        if collection is None or collection not in queries:
            raise NotFound(f"Alias {alias!r} leads to {collection!r}, and to none of {', '.join(map(repr, queries))}.")
        using, query = queries[collection]
        await self.server_ms(collection, query, using=using, limit=1)

    async def matching(self, collection: str, body: Mapping[str, Any]) -> int:
        """How many points a filter matches; an estimate where strict mode forbids exact counts."""
        wanted = templates.filter_of(body)
        try:
            return (await self._call(lambda: self._call.rest.count(collection, count_filter=wanted, exact=True))).count
        except RequestRejected:
            return (await self._call(lambda: self._call.rest.count(collection, count_filter=wanted, exact=False))).count

    def _prefetch(self, query: Query, using: str, depth: int, *, exact: bool) -> models.Prefetch:
        params = search_params(self._call, exact=exact)
        return models.Prefetch(query=translate.value(query), using=using or None, limit=depth, params=params)

    async def _found(
        self, collection: str, prefetch: list[models.Prefetch], query: Any, using: str | None, *, limit: int, exact: bool
    ) -> list[Found]:
        answer = await self._call(
            lambda: self._call.fast.query_points(
                collection,
                prefetch=prefetch,
                query=query,
                using=using,
                limit=limit,
                search_params=search_params(self._call, exact=exact),
                with_payload=False,
            )
        )
        return [Found(id=translate.plain_id(p.id) or 0, score=p.score, payload={}) for p in answer.points]

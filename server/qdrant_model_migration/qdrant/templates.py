"""How does a search template become a request? Its parts checked by the client's own models, and the query put in their places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from qdrant_client import models

from qdrant_model_migration.domain.points import ServerText
from qdrant_model_migration.domain.search_template import QueryText, QueryVector, Search
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.qdrant import translate
from qdrant_model_migration.qdrant.points import Query

_M = TypeVar("_M", bound=BaseModel)
_COMBINING: dict[str, type[BaseModel]] = {"fusion": models.FusionQuery, "rrf": models.RrfQuery, "formula": models.FormulaQuery}


def request(
    search: Search, vectors: Mapping[str, Query], documents: Sequence[ServerText], *, limit: int, exact: bool, is_embedded: bool
) -> dict[str, Any]:
    """Arguments of `query_points`. `exact` overrules the template's own parameters; the embedded database takes none.

    Raises:
        Refused: a part that Qdrant's API does not know.
    """
    prefetch = [_prefetch(inner, vectors, documents, exact=exact, is_embedded=is_embedded) for inner in search.prefetch]
    return {
        "prefetch": prefetch or None,
        "query": _query(search, vectors, documents),
        "using": search.using or None,
        "query_filter": filter_of(search.filter),
        "search_params": _params(search, exact=exact, is_embedded=is_embedded),
        "score_threshold": search.score_threshold,
        "limit": limit,
        "with_payload": False,
    }


def filter_of(body: Mapping[str, Any] | None) -> models.Filter | None:
    """A filter as the client takes it.

    Raises:
        Refused: it is none.
    """
    return None if body is None else _checked(models.Filter, body, "filter")


def _prefetch(
    search: Search, vectors: Mapping[str, Query], documents: Sequence[ServerText], *, exact: bool, is_embedded: bool
) -> models.Prefetch:
    inner = [_prefetch(one, vectors, documents, exact=exact, is_embedded=is_embedded) for one in search.prefetch]
    return models.Prefetch(
        prefetch=inner or None,
        query=_query(search, vectors, documents),
        using=search.using or None,
        filter=filter_of(search.filter),
        params=_params(search, exact=exact, is_embedded=is_embedded),
        score_threshold=search.score_threshold,
        limit=search.limit,
    )


def _query(search: Search, vectors: Mapping[str, Query], documents: Sequence[ServerText]) -> Any:
    asked = search.query
    if isinstance(asked, QueryVector | QueryText):
        value = translate.value(vectors[search.using or ""] if isinstance(asked, QueryVector) else documents[asked.place])
        return value if asked.mmr is None else models.NearestQuery(nearest=value, mmr=_checked(models.Mmr, asked.mmr, "mmr"))
    kind = next(key for key in _COMBINING if key in asked)
    return _checked(_COMBINING[kind], asked, "query")


def _params(search: Search, *, exact: bool, is_embedded: bool) -> models.SearchParams | None:
    found = None if search.params is None else _checked(models.SearchParams, search.params, "params")
    if is_embedded:
        return None
    return (found or models.SearchParams()).model_copy(update={"exact": True}) if exact else found


def _checked(model: type[_M], body: Mapping[str, Any], part: str) -> _M:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        # Of the alternatives of a union the one that was followed furthest is what was meant.
        worst = max(error.errors(include_url=False, include_context=False), key=lambda e: len(e["loc"]))
        where = ".".join(str(step) for step in worst["loc"])
        raise Refused(f"Nothing was compared: search_template has a {part!r} that Qdrant does not know: {where}: {worst['msg']}.") from None

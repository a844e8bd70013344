"""How does the app search? A query request of Qdrant with places for what is asked, and how each side of a comparison asks it; pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from qdrant_model_migration.domain.collection import Json
from qdrant_model_migration.domain.comparison_sides import SidePlan
from qdrant_model_migration.errors import Refused

VECTOR = "{query}"
"""Stands for the query's vector, made by the model that belongs to the field of `using`."""
TEXT = "{text}"
"""Stands for the query's text, in a document that the server embeds itself."""
MAX_CHARS = 10_000
MAX_SEARCHES = 16
MAX_NESTING = 4
MAX_LIMIT = 1_000
_DEFAULT_LIMIT = 10

_SEARCH_KEYS = {"prefetch", "query", "using", "filter", "params", "score_threshold", "limit"}
_UNUSED = {"with_payload", "with_vector", "with_vectors"}
"""What the app reads of its hits does not change which they are."""
_COMBINING = {"fusion", "rrf", "formula"}


@dataclass(frozen=True, kw_only=True)
class QueryVector:
    """The query's vector for the field of its search."""

    mmr: Json | None = None


@dataclass(frozen=True, kw_only=True)
class QueryText:
    """The query's text for the server to embed; `place` numbers the documents of a template."""

    place: int
    model: str
    options: Json
    mmr: Json | None = None


@dataclass(frozen=True, kw_only=True)
class Search:
    """One search of a template; `using` is None or "" for the unnamed vector."""

    query: QueryVector | QueryText | Json
    using: str | None = None
    filter: Json | None = None
    params: Json | None = None
    score_threshold: float | None = None
    limit: int = _DEFAULT_LIMIT
    prefetch: tuple[Search, ...] = ()

    def all(self) -> Iterator[Search]:
        """This search, and those that it begins with."""
        yield self
        for inner in self.prefetch:
            yield from inner.all()

    @property
    def documents(self) -> list[QueryText]:
        """What the server embeds, in the order of their places."""
        return sorted((s.query for s in self.all() if isinstance(s.query, QueryText)), key=lambda d: d.place)

    @property
    def is_combining(self) -> bool:
        """Whether the hits are ordered by something else than one vector field."""
        return not isinstance(self.query, QueryVector | QueryText)

    def filters(self, outer: Json | None = None) -> list[Json | None]:
        """What each search that is made first must match: Qdrant applies the filter of a search to its prefetches as well."""
        own = both(outer, self.filter)
        if not self.prefetch:
            return [own]
        found: list[Json | None] = []
        for inner in self.prefetch:
            found += [one for one in inner.filters(own) if one not in found]
        return found


def both(one: Json | None, other: Json | None) -> Json | None:
    """A filter that asks for both."""
    return {"must": [one, other]} if one and other else one or other


def parsed(template: str | Mapping[str, Any]) -> Search:
    """The template as a tree of searches.

    Raises:
        Refused: it is not JSON, asks for what a comparison cannot do, or has no place for the query; says where.
    """
    text = template if isinstance(template, str) else json.dumps(template)
    if len(text) > MAX_CHARS:
        raise _refused(f"has {len(text):,} characters; it may have {MAX_CHARS:,}")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise _refused(f"is not JSON: {reason}") from None
    if not isinstance(body, dict):
        raise _refused('is not an object, such as {"query": "{query}", "filter": {...}}')
    places = iter(range(MAX_SEARCHES + 1))
    found = _search({key: value for key, value in body.items() if key not in _UNUSED}, "the template", 1, places)
    count = sum(1 for _ in found.all())
    if count > MAX_SEARCHES:
        raise _refused(f"makes {count} searches; it may make {MAX_SEARCHES}")
    if not any(isinstance(search.query, QueryVector) for search in found.all()):
        raise _refused(
            f'has no place for the query: put "{VECTOR}" where the app sends the vector of the query, as in {{"query": "{VECTOR}"}}'
        )
    return found


def sided(template: Search, plans: tuple[SidePlan, SidePlan]) -> tuple[Search, Search]:
    """The template as baseline and candidate ask it: with the field of each. Without the field that a migration added, for the baseline.

    Raises:
        Refused: a vector is asked of a field that the migration does not compare, or the added field is not asked.
    """
    base, candidate = plans
    added = candidate.added.field if candidate.added is not None else None
    same = {"", base.dense.field, candidate.dense.field}
    for search in template.all():
        name = search.using or ""
        if isinstance(search.query, QueryVector) and name not in same and name != added:
            known = [
                repr(one or "(unnamed)") for one in dict.fromkeys([base.dense.field, candidate.dense.field, *([added] if added else [])])
            ]
            raise _refused(
                f"asks {VECTOR!r} of vector {name!r}, for which no model is known; this migration compares {', '.join(known)}. "
                f'A field that the server itself embeds is asked by {{"text": "{TEXT}", "model": "..."}}'
            )
    if added is None:
        return _using(template, same, base.dense.field), _using(template, same, candidate.dense.field)
    whole = _using(template, same, candidate.dense.field, kept=added)
    if not any(isinstance(s.query, QueryVector) and s.using == added for s in whole.all()):
        raise _refused(
            f"does not ask the added vector {added!r}, so both sides would search alike. Write the search that the app shall make: "
            f'a prefetch or a query with "using": "{added}". The baseline is the same without it'
        )
    alone = _without(whole, added)
    if alone is None or not any(isinstance(s.query, QueryVector) for s in alone.all()):
        raise _refused(
            f"asks nothing but the added vector {added!r}; the baseline is what is left of it without that, a search of the dense one"
        )
    return alone, whole


def template_notes(template: Search, k: int) -> list[str]:
    """What a person should know of the template before reading the numbers."""
    notes = [
        "Searched as search_template says: metrics and verdict rest on what that finds, with the index as it is; scores of two models are never compared."
    ]
    if template.limit != k:
        notes.append(f"The template's limit of {template.limit} was replaced by what the metrics need (k={k}).")
    if any(s.score_threshold is not None and isinstance(s.query, QueryVector) for s in template.all()):
        notes.append(
            "The template has a score_threshold: a score means something else in each model, so the same threshold keeps another share of the hits."
        )
    if any(isinstance(s.query, dict) and "formula" in s.query for s in template.all()):
        notes.append(
            "The template's formula mixes scores of the model with other numbers: weights made for one model's scores may not suit the other's."
        )
    return notes


def _search(body: Any, where: str, nesting: int, places: Iterator[int]) -> Search:
    if not isinstance(body, dict):
        raise _refused(f"{where} is not an object")
    if nesting > MAX_NESTING:
        raise _refused(f"nests prefetches more than {MAX_NESTING} deep")
    strange = sorted(body.keys() - _SEARCH_KEYS)
    if strange:
        raise _refused(
            f"{where} has {', '.join(repr(s[:40]) for s in strange[:5])}, which is not taken here. There are {', '.join(sorted(_SEARCH_KEYS))}"
        )
    limit = body.get("limit", _DEFAULT_LIMIT)
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MAX_LIMIT:
        raise _refused(f"{where}: 'limit' must be a whole number from 1 to {MAX_LIMIT:,}")
    threshold = body.get("score_threshold")
    if threshold is not None and (not isinstance(threshold, int | float) or isinstance(threshold, bool)):
        raise _refused(f"{where}: 'score_threshold' must be a number")
    using = body.get("using")
    if using is not None and not isinstance(using, str):
        raise _refused(f"{where}: 'using' must be the name of a vector")
    inner = body.get("prefetch") or []
    inner = [inner] if isinstance(inner, dict) else inner
    if not isinstance(inner, list) or len(inner) > MAX_SEARCHES:
        raise _refused(f"{where}: 'prefetch' must be a search, or a list of at most {MAX_SEARCHES}")
    prefetch = tuple(_search(one, f"prefetch {number} of {where}", nesting + 1, places) for number, one in enumerate(inner, start=1))
    query = _query(body.get("query"), where, places)
    if not prefetch and isinstance(query, dict):
        raise _refused(f"{where}: {next(iter(query))!r} combines searches, and there is no 'prefetch'")
    return Search(
        query=query,
        using=using,
        filter=_object(body, "filter", where),
        params=_object(body, "params", where),
        score_threshold=threshold,
        limit=limit,
        prefetch=prefetch,
    )


def _query(value: Any, where: str, places: Iterator[int]) -> QueryVector | QueryText | Json:
    mmr = None
    if isinstance(value, dict) and "nearest" in value and value.keys() <= {"nearest", "mmr"}:
        value, mmr = value["nearest"], value.get("mmr")
    if value == VECTOR:
        return QueryVector(mmr=mmr)
    if (
        isinstance(value, dict)
        and value.get("text") == TEXT
        and isinstance(value.get("model"), str)
        and value.keys() <= {"text", "model", "options"}
    ):
        return QueryText(place=next(places, MAX_SEARCHES), model=value["model"], options=_object(value, "options", where) or {}, mmr=mmr)
    if isinstance(value, dict) and value.keys() & _COMBINING and len(value) <= 2:
        return value
    raise _refused(
        f'{where}: \'query\' must be "{VECTOR}", a document {{"text": "{TEXT}", "model": "..."}} that the server embeds, or combine prefetches by '
        f"{', '.join(sorted(_COMBINING))}"
    )


def _object(body: Mapping[str, Any], key: str, where: str) -> Json | None:
    value = body.get(key)
    if value is None or isinstance(value, dict):
        return value
    raise _refused(f"{where}: {key!r} must be an object")


def _using(search: Search, same: set[str], field: str, kept: str | None = None) -> Search:
    name = search.using or ""
    is_ours = isinstance(search.query, QueryVector) and name in same and name != kept
    return replace(search, using=field if is_ours else search.using, prefetch=tuple(_using(s, same, field, kept) for s in search.prefetch))


def _without(search: Search, field: str) -> Search | None:
    """What is left when nothing is asked of a field; a combination of one search is that search."""
    left = tuple(inner for inner in (_without(s, field) for s in search.prefetch) if inner is not None)
    if isinstance(search.query, QueryVector) and search.using == field:
        if len(left) > 1:
            raise _refused(f"has {len(left)} searches below the one of {field!r}: which of them is the baseline cannot be told")
        return _raised(left[0], search) if left else None
    if search.is_combining and not left:
        return None
    if isinstance(search.query, dict) and len(left) == 1 and "formula" not in search.query:
        return _raised(left[0], search)
    return replace(search, prefetch=left)


def _raised(inner: Search, outer: Search) -> Search:
    return replace(inner, filter=both(outer.filter, inner.filter), limit=outer.limit)


def _refused(what: str) -> Refused:
    return Refused(f"Nothing was compared: search_template {what}.")

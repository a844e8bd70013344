"""Where do a comparison's queries come from, and which points do their judgements mean? Files, the collection's ids, samples."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import anyio

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.metrics import Query
from qdrant_model_migration.domain.points import Point, PointId, tag
from qdrant_model_migration.domain.queries import (
    GENERATED,
    PAST,
    Document,
    QuerySet,
    RawQuery,
    given_queries,
    known_items,
    past_queries,
    stated_point_id,
    title_of,
)
from qdrant_model_migration.domain.query_files import file_judgements, queries_of
from qdrant_model_migration.domain.texts import ABSENT, Texts, read_path
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.overview import resolve_allowed
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.settings import Settings

MAX_FILE_BYTES = 50_000_000
ID_FIELDS = ("id", "doc_id", "_id")
"""Payload fields that may hold the ids of judgements, when these are not point ids."""
POINT_ID = "point"
"""Value of `id_field` that says: the judgements hold point ids."""

_BEIR_QRELS = ("qrels/test.tsv", "qrels/dev.tsv", "qrels/train.tsv", "qrels.tsv")
PAGE = 256
_POINTS_READ = 20_000
"""Points drawn at random, in which past queries are looked for."""
_DRAWN_BY_SEED = 200_000
"""Larger collections are sampled by the server, which takes no seed: reading all their ids would take longer than a person waits."""
_MAX_TEXT_CHARS = 40_000
_MAX_TOTAL_CHARS = 200_000_000


def check_sources(queries: object, queries_file: str | None, queries_field: str | None) -> None:
    """Refuse queries of two kinds, and a field without a name."""
    if queries_field is None:
        return
    if queries is not None or queries_file is not None:
        raise Refused(
            "Nothing was compared: 'queries_field' draws past queries; give it, or 'queries', or 'queries_file', not two of them."
        )
    if not queries_field.rpartition("/")[2].strip():
        raise Refused(
            "Nothing was compared: 'queries_field' names no payload field; write 'field', or 'collection/field' for another collection."
        )


async def read_queries(
    settings: Settings, queries: Sequence[object] | None, queries_file: str | None, qrels_file: str | None
) -> tuple[list[RawQuery] | None, list[str], str]:
    """The queries that were given, notes, and where they come from; None when there are none.

    Raises:
        Refused: arguments that contradict each other, a file outside the allowed directories, or a bad line.
    """
    if queries is not None and queries_file is not None:
        raise Refused("Nothing was compared: give 'queries' or 'queries_file', not both.")
    if qrels_file is not None and queries_file is None:
        raise Refused(
            "Nothing was compared: 'qrels_file' refers to the ids of a 'queries_file'; name that as well, or give queries with 'relevant_ids'."
        )
    if queries is not None:
        found = given_queries(queries)
        return found, [], f"{len(found)} given queries"
    if queries_file is None:
        return None, [], ""
    file, qrels_file, notes = await anyio.to_thread.run_sync(_beir, settings, queries_file, qrels_file)
    lines = await _lines(settings, file)
    found, about = await anyio.to_thread.run_sync(queries_of, lines, file)
    notes += about
    source = f"{len(found)} queries of {Path(file).name!r}"
    if qrels_file is None:
        return found, notes, source
    rows = await _lines(settings, qrels_file)
    ids = [query.id for query in found]
    grades, others = await anyio.to_thread.run_sync(file_judgements, rows, qrels_file, ids)
    if others:
        notes.append(f"{others} judgements of {Path(qrels_file).name!r} are for queries that are not in {Path(file).name!r}.")
    if not any(grades.values()):
        raise Refused(
            f"Nothing was compared: none of the {others} judgements of {qrels_file!r} is for a query of {queries_file!r}. Do both files use the same query ids?"
        )
    judged = [RawQuery(id=q.id, text=q.text, relevant={**q.relevant, **grades[q.id]}) for q in found]
    return judged, notes, f"{source} judged by {Path(qrels_file).name!r}"


def _beir(settings: Settings, queries_file: str, qrels_file: str | None) -> tuple[str, str | None, list[str]]:
    """The files of a folder that is laid out as BEIR has it (`queries.jsonl`, `qrels/test.tsv`); of a file, itself."""

    def is_there(name: str) -> bool:
        try:
            settings.allowed_file(name)
        except Refused:
            return False
        return True

    inside = str(Path(queries_file) / "queries.jsonl")
    if is_there(queries_file) or not is_there(inside):
        return queries_file, qrels_file, []
    if qrels_file is None:
        qrels_file = next((name for part in _BEIR_QRELS if is_there(name := str(Path(queries_file) / part))), None)
    judged = f" judged by {Path(qrels_file).name!r}" if qrels_file is not None else ", and no judgements"
    return inside, qrels_file, [f"{queries_file!r} is a folder as BEIR has it: its 'queries.jsonl'{judged} were taken."]


async def _lines(settings: Settings, name: str) -> list[str]:
    def read() -> bytes:
        with settings.opened_file(name) as stream:
            return stream.read(MAX_FILE_BYTES + 1)

    try:
        data = await anyio.to_thread.run_sync(read)
    except OSError as error:
        raise Refused(
            f"File {name!r} was not read: {error.strerror or 'it cannot be read'}. Nothing was compared; see to the file and call again."
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise Refused(f"File {name!r} was not read: it is larger than {MAX_FILE_BYTES // 1_000_000} MB.")
    try:
        return data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Refused(f"File {name!r} was not read: line {line} is not UTF-8.") from None


async def with_points(gateway: Gateway, collection: Collection, raw: Sequence[RawQuery], source: str, id_field: str | None) -> QuerySet:
    """The queries with their judgements as points of the collection.

    Ids are point ids (`i:42`, an integer, a UUID), or values of a payload field: `id_field`, else one of `ID_FIELDS`.

    Raises:
        Refused: no judged id is known to the collection, or ids could mean points as well as payload values and these disagree.
    """
    wanted = sorted({one for query in raw for one in query.relevant})
    if not wanted:
        return QuerySet(queries=[Query(id=q.id, text=q.text) for q in raw], basis="unjudged", source=source, notes=[])
    notes: list[str] = []
    meant: dict[str, list[PointId]] = {}
    if id_field in {None, POINT_ID}:
        meant = await _as_points(gateway, collection, wanted, is_stated=id_field == POINT_ID)
    if id_field != POINT_ID and len(meant) < len(wanted) / 2:
        field, by_field = await _as_values(gateway, collection, set(wanted), (id_field,) if id_field else ID_FIELDS)
        if field is not None and len(by_field) > len(meant):
            meant = by_field
            notes.append(f"The judged ids were found in payload field {field!r}.")
            several = sum(len(points) > 1 for points in by_field.values())
            if several:
                notes.append(
                    f"{several} judged ids stand for several points each (chunks of one document): each of them counts as relevant."
                )
    unknown = [one for one in wanted if one not in meant]
    if not meant:
        where = (
            f"payload field {id_field!r}"
            if id_field not in {None, POINT_ID}
            else f"point ids or values of {', '.join(map(repr, ID_FIELDS))}"
        )
        raise Refused(
            f"Nothing was compared: none of the {len(wanted)} judged ids is known to {collection.name!r} (looked for as {where}; the first is {unknown[0][:80]!r}). "
            "Are the judgements for this collection? Otherwise name the payload field that holds the ids."
        )
    if unknown:
        notes.append(
            f"{len(unknown)} of {len(wanted)} judged ids are not in {collection.name!r}; their judgements were left out (the first: {unknown[0][:80]!r})."
        )
    queries = [
        Query(id=q.id, text=q.text, relevant={point: grade for one, grade in q.relevant.items() for point in meant.get(one, ())})
        for q in raw
    ]
    return QuerySet(queries=queries, basis="judged", source=source, notes=notes)


async def _as_points(gateway: Gateway, collection: Collection, wanted: Sequence[str], *, is_stated: bool) -> dict[str, list[PointId]]:
    stated = {one: stated_point_id(one) for one in wanted}
    possible = {one: point for one, (point, _) in stated.items() if point is not None}
    ids = list(dict.fromkeys(possible.values()))
    existing: set[PointId] = set()
    for start in range(0, len(ids), PAGE):
        existing |= await gateway.points.existing(collection.name, ids[start : start + PAGE])
    meant = {one: [point] for one, point in possible.items() if point in existing}
    doubtful = [points[0] for one, points in meant.items() if not is_stated and not stated[one][1]]
    if doubtful:
        await _check_not_ambiguous(gateway, collection, doubtful[:32])
    return meant


async def _check_not_ambiguous(gateway: Gateway, collection: Collection, ids: list[PointId]) -> None:
    """Refuse when the payload numbers the points differently: taking one numbering for the other gives plausible nonsense."""
    points = await gateway.points.retrieve(collection.name, ids)
    for field in ID_FIELDS:
        for point in points.values():
            value = read_path(point.payload, field)
            other = stated_point_id(str(value))[0] if isinstance(value, str | int) and not isinstance(value, bool) else None
            if other is not None and isinstance(other, int) == isinstance(point.id, int) and other != point.id:
                raise Refused(
                    f"Nothing was compared: the judged ids may be point ids of {collection.name!r} or values of its payload field {field!r}, and these disagree: "
                    f"point {tag(point.id)} has {field} {str(value)[:40]!r}. State it with id_field={field!r} or id_field={POINT_ID!r}, or write point ids as '{tag(point.id)}'."
                )


async def _as_values(
    gateway: Gateway, collection: Collection, wanted: set[str], fields: Sequence[str]
) -> tuple[str | None, dict[str, list[PointId]]]:
    found: dict[str, dict[str, list[PointId]]] = {field: {} for field in fields}
    async for points in _scrolled(gateway, collection):
        for point in points:
            for field in fields:
                value = read_path(point.payload, field)
                if isinstance(value, str | int) and not isinstance(value, bool) and str(value) in wanted:
                    found[field].setdefault(str(value), []).append(point.id)
    best = max(fields, key=lambda field: len(found[field]))
    return (best, found[best]) if found[best] else (None, {})


async def generated(gateway: Gateway, collection: Collection, text: Texts, seed: int, count: int = GENERATED) -> QuerySet:
    """Known-item queries made from a sample of the collection.

    Raises:
        Refused: the sample holds no text to make queries from.
    """
    documents, _ = await sampled(gateway, collection, text, min(5 * count, 1_000), seed)
    return known_items(documents, count, seed)


async def past(context: OperationContext, gateway: Gateway, compared: Collection, queries_field: str, seed: int) -> QuerySet:
    """Queries drawn from a payload field that holds what people asked before: of the compared collection, or as `collection/field` of another.

    Raises:
        Refused: it holds none, or the other collection is outside the allow-list.
        NotFound: there is no such collection.
    """
    values: list[object] = []
    other, _, field = queries_field.rpartition("/")
    collection = compared
    if other:
        # No collection may have a slash in its name.
        collection = await gateway.describe((await resolve_allowed(context, gateway, other))[0])
    async for points in _drawn(gateway, collection, _POINTS_READ, seed, ()):
        found = [read_path(point.payload, field) for point in points]
        values += [value for value in found if value is not ABSENT and value is not None]
    return past_queries(values, PAST, seed, f"payload field {field!r} of {collection.name!r}")


async def sampled(
    gateway: Gateway, collection: Collection, text: Texts, size: int, seed: int, required: Sequence[PointId] = ()
) -> tuple[list[Document], list[str]]:
    """Documents drawn at random, the required ones first; and notes on what was left out.

    Raises:
        Refused: not one of the drawn points has a text.
    """
    documents: dict[PointId, Document] = {}
    seen = textless = cut = chars = 0
    async for points in _drawn(gateway, collection, size, seed, required):
        for point in points:
            seen += 1
            found = text.of(point)
            if found is None:
                textless += 1
                continue
            cut += len(found) > _MAX_TEXT_CHARS
            chars += min(len(found), _MAX_TEXT_CHARS)
            documents[point.id] = Document(id=point.id, text=found[:_MAX_TEXT_CHARS], title=title_of(point.payload))
        if chars > _MAX_TOTAL_CHARS:
            break
    if not documents:
        raise Refused(f"Nothing was compared: none of {seen} sampled points of {collection.name!r} has a text in {text.expression!r}.")
    notes = [f"{textless} of {seen} sampled points have no text in {text.expression!r} and cannot be found."] if textless else []
    if cut:
        notes.append(f"{cut} texts were cut to {_MAX_TEXT_CHARS:,} characters.")
    if chars > _MAX_TOTAL_CHARS:
        notes.append(f"The sample ends at {len(documents):,} documents: their texts hold {chars / 1e6:,.0f} million characters.")
    return list(documents.values()), notes


async def _drawn(gateway: Gateway, collection: Collection, size: int, seed: int, required: Sequence[PointId]) -> AsyncIterator[list[Point]]:
    if collection.points <= size:
        async for points in _scrolled(gateway, collection):
            yield points
        return
    chosen = set(required)
    if collection.points <= _DRAWN_BY_SEED:
        ids = [point_id async for page in _ids(gateway, collection) for point_id in page if point_id not in chosen]
        rest = random.Random(seed).sample(ids, max(0, min(len(ids), size - len(chosen))))
        wanted = [*required, *rest]
    else:
        wanted = list(required)
    for start in range(0, len(wanted), PAGE):
        yield list((await gateway.points.retrieve(collection.name, wanted[start : start + PAGE])).values())
    if collection.points <= _DRAWN_BY_SEED:
        return
    page = min(PAGE, collection.page_limit or PAGE)
    fruitless = 0
    while len(chosen) < size and fruitless < 20:
        drawn = await gateway.points.sample(collection.name, min(page, size - len(chosen)))
        fresh = [point for point in drawn if point.id not in chosen]
        fruitless = 0 if fresh else fruitless + 1
        chosen |= {point.id for point in fresh}
        yield fresh


async def _ids(gateway: Gateway, collection: Collection) -> AsyncIterator[list[PointId]]:
    offset: PointId | None = None
    while True:
        ids, offset = await gateway.points.ids(collection.name, offset=offset, limit=min(2_000, collection.page_limit or 2_000))
        yield ids
        if offset is None:
            return


async def _scrolled(gateway: Gateway, collection: Collection) -> AsyncIterator[list[Point]]:
    offset: PointId | None = None
    while True:
        points, offset = await gateway.points.scroll(collection.name, offset=offset, limit=min(PAGE, collection.page_limit or PAGE))
        yield points
        if offset is None:
            return

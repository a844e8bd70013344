"""Which questions is a comparison put to? Those given, those of a file with its judgements, or ones made from documents."""

from __future__ import annotations

import math
import random
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from qdrant_model_migration.domain.comparison import Basis
from qdrant_model_migration.domain.metrics import Query
from qdrant_model_migration.domain.points import Payload, PointId, order_key, untag
from qdrant_model_migration.domain.texts import read_path
from qdrant_model_migration.errors import Refused

MAX_QUERIES = 10_000
MAX_QUERY_CHARS = 8_000
GENERATED = 200
MAX_GRADE = 1_000
PAST = 1_000
"""Past queries that are drawn."""

_TITLES = ("title", "heading", "headline", "subject", "question", "metadata.title")
_WORD = re.compile(r"\w+")
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_PHRASE_WORDS = 12
_SENTENCE_WORDS = 24


@dataclass(frozen=True, kw_only=True)
class RawQuery:
    """A query as written: `relevant` maps ids as the file has them to grades."""

    id: str
    text: str
    relevant: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class QuerySet:
    """Queries ready to be run. `source` says to a person where they come from."""

    queries: list[Query]
    basis: Basis
    source: str
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class Document:
    """A sampled point that has a text; payloads are not kept."""

    id: PointId
    text: str
    title: str | None = None


def given_queries(queries: Sequence[object]) -> list[RawQuery]:
    """Queries of an argument: texts, or objects with `text` and `relevant_ids`.

    Raises:
        Refused: none, too many, blank or too long; says which.
    """
    return checked(
        [raw_query(entry, f"Query {number}", f"q{number}") for number, entry in enumerate(queries, start=1)], "the argument 'queries'"
    )


def stated_point_id(text: str) -> tuple[PointId | None, bool]:
    """The point id that a written id may mean, and whether it can mean nothing else (tagged, `i:42`)."""
    if text[:2] in {"i:", "u:"} and text.isascii():
        try:
            tagged = untag(text)
        except Refused:
            return None, False
        return (tagged, True) if isinstance(tagged, str) or tagged < 2**64 else (None, False)
    if text.isascii() and text.isdigit() and len(text) <= 20:
        return (int(text), False) if int(text) < 2**64 else (None, False)
    try:
        return str(uuid.UUID(text)), False
    except ValueError:
        return None, False


def title_of(payload: Payload) -> str | None:
    """The title a payload holds under one of the usual names."""
    values = (read_path(payload, path) for path in _TITLES)
    return next((value.strip() for value in values if isinstance(value, str) and value.strip()), None)


def known_items(documents: Sequence[Document], count: int, seed: int) -> QuerySet:
    """Queries made from documents, each answered by the document it was made from and by its near-duplicates in the sample.

    A query is the title where that is telling, else the first sentence, else the passage with the rarest words. The same documents and
    seed give the same queries.

    Raises:
        Refused: no document yields a query.
    """
    ordered = sorted(documents, key=lambda d: order_key(d.id))
    twins: dict[bytes, list[PointId]] = {}
    for document in ordered:
        twins.setdefault(_fingerprint(document.text), []).append(document.id)
    frequency: Counter[str] = Counter()
    for document in ordered:
        frequency.update(set(_words(document.text)))
    titles = Counter(" ".join(_words(d.title)) for d in ordered if d.title)
    firsts = Counter(" ".join(_words(_first_sentence(d.text))) for d in ordered)
    random.Random(seed).shuffle(ordered)
    queries: list[Query] = []
    used: set[bytes] = set()
    barren = by_title = 0
    for document in ordered:
        if len(queries) == count:
            break
        mark = _fingerprint(document.text)
        if mark in used:
            continue
        used.add(mark)
        has_title = (
            document.title is not None and titles[" ".join(_words(document.title))] == 1 and _is_telling(document.title, document.text)
        )
        first = _first_sentence(document.text)
        if has_title and document.title:
            text = document.title
        elif firsts[" ".join(_words(first))] == 1 and _is_telling(first, document.text):
            text = first
        else:
            text = _phrase(document.text, frequency, len(ordered))
        if not text:
            barren += 1
            continue
        by_title += has_title
        queries.append(Query(id=f"g{len(queries) + 1}", text=_cut(text), relevant=dict.fromkeys(twins[mark], 1)))
    if not queries:
        raise Refused(
            "Nothing was compared: the sampled texts are too short to make queries from. Give queries of your own with 'queries'."
        )
    notes = [
        f"The {len(queries)} queries were generated from the collection ({by_title} from titles, {len(queries) - by_title} from sentences): "
        "the verdict rests on finding the document that each was made from, which is easier than what people ask. Judged queries of your own tell more."
    ]
    doubled = sum(len(ids) for ids in twins.values() if len(ids) > 1)
    if doubled:
        notes.append(
            f"{doubled} of {len(documents)} sampled documents have near-duplicates in the sample; any of them counts as the answer."
        )
    if barren:
        notes.append(f"{barren} sampled documents were too short to make a query from.")
    return QuerySet(
        queries=queries, basis="generated", source=f"{len(queries)} known-item queries generated from the collection", notes=notes
    )


def raw_query(entry: object, where: str, identifier: str) -> RawQuery:
    """One query as written.

    Raises:
        Refused: blank, too long, or its judgements cannot be read; says `where`.
    """
    relevant: dict[str, int] = {}
    text: object = entry
    if isinstance(entry, Mapping):
        text = entry.get("text")
        relevant = _relevant(entry.get("relevant_ids"), where)
    if not isinstance(text, str) or not text.strip():
        raise Refused(f"Nothing was compared: {where} has no text.")
    if len(text) > MAX_QUERY_CHARS:
        raise Refused(f"Nothing was compared: {where} has {len(text):,} characters; a query may have {MAX_QUERY_CHARS:,}.")
    return RawQuery(id=identifier, text=text, relevant=relevant)


def past_queries(values: Iterable[object], count: int, seed: int, name: str) -> QuerySet:
    """Queries that people asked before, drawn from what a payload field holds: texts or lists of texts, each text once.

    Raises:
        Refused: the field holds no text that could be a query.
    """
    texts: dict[str, str] = {}
    held = unusable = 0
    for value in values:
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, str) or not one.strip() or len(one) > MAX_QUERY_CHARS:
                unusable += 1
                continue
            held += 1
            texts.setdefault(" ".join(one.split()).casefold(), " ".join(one.split()))
    if not texts:
        raise Refused(
            f"Nothing was compared: {name} holds no text that could be a query ({unusable} values are blank, too long, or no text)."
        )
    drawn = random.Random(seed).sample(sorted(texts.values()), min(count, len(texts)))
    notes = [
        f"{len(drawn)} of {len(texts)} different past queries ({held} in the points that were read) were drawn; frequent ones count no more than others."
    ]
    if unusable:
        notes.append(f"{unusable} values of {name} are blank, longer than {MAX_QUERY_CHARS:,} characters, or no text, and were left out.")
    return QuerySet(
        queries=[Query(id=f"p{number}", text=text) for number, text in enumerate(drawn, start=1)],
        basis="unjudged",
        source=f"{len(drawn)} past queries of {name}",
        notes=notes,
    )


def _relevant(value: Any, where: str) -> dict[str, int]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        grades = {str(key): grade for key, grade in value.items()}
        if all(isinstance(g, int) and not isinstance(g, bool) and abs(g) <= MAX_GRADE for g in grades.values()):
            return grades
    elif isinstance(value, list | tuple) and all(is_id(one) for one in value):
        return {str(one): 1 for one in value}
    raise Refused(f"Nothing was compared: {where}: 'relevant_ids' must be a list of ids, or an object of ids with whole numbers as grades.")


def is_id(value: object) -> bool:
    """Whether a value can name a query or a document."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and bool(value.strip()))


def checked(queries: list[RawQuery], name: str) -> list[RawQuery]:
    """The queries, if there are some, not too many, and no id twice.

    Raises:
        Refused: otherwise.
    """
    if not queries:
        raise Refused(f"Nothing was compared: {name} holds no query.")
    if len(queries) > MAX_QUERIES:
        raise Refused(f"Nothing was compared: {name} holds more than {MAX_QUERIES:,} queries, the most a comparison takes.")
    repeated = [identifier for identifier, times in Counter(q.id for q in queries).items() if times > 1]
    if repeated:
        raise Refused(f"Nothing was compared: {name} holds query id {repeated[0]!r} more than once ({len(repeated)} ids are repeated).")
    return queries


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _fingerprint(text: str) -> bytes:
    """Equal for texts that differ in nothing but case, spaces and punctuation, as far as their first 400 words."""
    return blake2b(" ".join(_words(text[:8_000])[:400]).encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _first_sentence(text: str) -> str:
    for sentence in _SENTENCE.split(text[:4_000].strip()):
        if len(_words(sentence)) >= 5:
            return " ".join(sentence.split()[:_SENTENCE_WORDS])
    return ""


def _is_telling(query: str, text: str) -> bool:
    """Long enough to mean one document, and not the whole of it: that would be found by any model."""
    size = len(_words(query))
    return size >= 3 and size <= 0.7 * len(_words(text[:8_000]))


def _phrase(text: str, frequency: Mapping[str, int], total: int) -> str:
    """The run of words that is rarest in the sample; of a script without spaces, a piece of the text."""
    spoken = text[:8_000].split()
    size = min(_PHRASE_WORDS, len(spoken) // 2)
    if size < 3:
        flat = "".join(text.split())
        return flat[: min(40, len(flat) // 2)] if len(flat) >= 16 and len(spoken) < 6 else ""
    rarity = [max((math.log(total / frequency[w]) for w in _words(word) if frequency.get(w)), default=0.0) for word in spoken]
    sums = [sum(rarity[:size])]
    for end in range(size, len(spoken)):
        sums.append(sums[-1] + rarity[end] - rarity[end - size])
    start = max(range(len(sums)), key=lambda i: (round(sums[i], 9), -i))
    return " ".join(spoken[start : start + size])


def _cut(text: str) -> str:
    return " ".join(text[:1_000].split())

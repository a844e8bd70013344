"""What does the app do meanwhile? It searches through the alias all the time, each query with the model that fits what it finds there."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from itertools import cycle

import anyio

from qdrant_model_migration.domain.collection import METADATA_KEY
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.points import Payload, Point
from qdrant_model_migration.errors import MigrationError
from qdrant_model_migration.operations.context import OperationContext

OLD_MODEL = "builtin:hashing-128-words"
NEW_MODEL = "builtin:hashing-512"
TEXT_FIELD = "{title}\n{text}"
PAUSE_S = 0.05
DEPTH = 10


@dataclass(frozen=True, kw_only=True)
class JudgedQuery:
    """A question and the `id` of the paragraph it asks for."""

    text: str
    relevant_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question to both models: where the right paragraph came (None: not among the first ten), and what came first."""

    text: str
    old_rank: int | None
    new_rank: int | None
    old_first: str
    new_first: str

    @property
    def gain(self) -> float:
        """Difference of the reciprocal ranks; above 0 the new model did better."""
        return (1 / self.new_rank if self.new_rank else 0.0) - (1 / self.old_rank if self.old_rank else 0.0)


def documents() -> list[Payload]:
    """The shipped paragraphs; demo_data/README.md says where they come from."""
    return [json.loads(line) for line in _lines("documents.jsonl")]


def judged_queries() -> list[JudgedQuery]:
    """The shipped questions."""
    rows = [json.loads(line) for line in _lines("queries.jsonl")]
    return [JudgedQuery(text=row["text"], relevant_ids=tuple(row["relevant_ids"])) for row in rows]


def _lines(name: str) -> list[str]:
    return (files("qdrant_model_migration") / "demo_data" / name).read_text("utf-8").splitlines()


class Application:
    """An app with a collection behind an alias, as it may have run for years."""

    def __init__(self, context: OperationContext, *, alias: str, collection: str) -> None:
        self._context = context
        self._alias = alias
        self._collection = collection
        self.moment = "before the migration"
        """Under which the queries are counted."""
        self.answered: Counter[str] = Counter()
        self.failures: list[str] = []
        self._was_sent = anyio.Event()

    async def check(self) -> None:
        """Whether the server answers and is new enough.

        Raises:
            Unsupported: it is older than 1.16.
        """
        gateway = await self._context.gateway()
        await gateway.require("collection_metadata", "the demonstration, whose app reads the model's name from the collection,")

    async def set_up(self) -> int:
        """Fill the collection with the old model's vectors and point the alias at it; the number of documents.

        Raises:
            AlreadyExists: the name is taken.
        """
        gateway = await self._context.gateway()
        embedder = await self._context.catalogue.load(OLD_MODEL)
        payloads = documents()
        texts = [f"{payload['title']}\n{payload['text']}" for payload in payloads]
        vectors = await embedder.embed(texts, Side.DOCUMENT)
        create = {
            "vectors": {"size": embedder.spec.dimensions, "distance": "Cosine"},
            "metadata": {METADATA_KEY: {"model": OLD_MODEL, "dimensions": embedder.spec.dimensions, "text_field": TEXT_FIELD}},
        }
        await gateway.create_collection(self._collection, create)
        points = [
            Point(id=number, payload=payload, vectors={"": vector.tolist()})
            for number, (payload, vector) in enumerate(zip(payloads, vectors, strict=True), start=1)
        ]
        await gateway.points.write(self._collection, points)
        for field, kind in (("pep", "integer"), ("status", "keyword")):
            await gateway.create_payload_index(self._collection, field, {"data_type": kind})
        await gateway.point_alias(self._alias, self._collection)
        return len(points)

    async def search_forever(self) -> None:
        """One query after another; what fails is kept."""
        for query in cycle(judged_queries()):
            try:
                await self.search(query.text)
                self.answered[self.moment] += 1
            except MigrationError as error:
                self.failures.append(f"{self.moment}: {error}")
            self._was_sent.set()
            self._was_sent = anyio.Event()
            await anyio.sleep(PAUSE_S)

    async def search(self, text: str, model: str | None = None) -> list[Payload]:
        """The best documents; without a model by the one that the collection behind the alias names."""
        name, _ = await (await self._context.gateway()).resolve(self._alias)
        # The collection, not the alias: were the alias moved since it was looked at, the vector would not fit.
        return await self._search_in(name, text, model)

    async def _search_in(self, collection: str, text: str, model: str | None = None) -> list[Payload]:
        gateway = await self._context.gateway()
        if model is None:
            metadata = (await gateway.describe(collection)).config.get("metadata") or {}
            model = str(metadata[METADATA_KEY]["model"])
        embedder = await self._context.catalogue.load(model)
        vector = (await embedder.embed([text], Side.QUERY))[0]
        found = await gateway.points.search(collection, vector.tolist(), using="", limit=DEPTH, exact=False)
        return [hit.payload for hit in found]

    async def ask_both(self, target: str) -> list[Asked]:
        """Every judged question to the old collection and to the new one."""
        asked = []
        for query in judged_queries():
            old, new = await self._search_in(self._collection, query.text), await self._search_in(target, query.text)
            asked.append(
                Asked(
                    text=query.text,
                    old_rank=_rank(old, query),
                    new_rank=_rank(new, query),
                    old_first=_shown(old),
                    new_first=_shown(new),
                )
            )
        return asked

    async def wait_for(self, queries: int) -> None:
        """Until the app sent so many more queries."""
        wanted = self._sent() + queries
        while self._sent() < wanted:
            await self._was_sent.wait()

    def _sent(self) -> int:
        return self.answered.total() + len(self.failures)


def _rank(found: list[Payload], query: JudgedQuery) -> int | None:
    return next((place for place, payload in enumerate(found, start=1) if payload["id"] in query.relevant_ids), None)


def _shown(found: list[Payload]) -> str:
    return f"{found[0]['title']}, {found[0]['section']}" if found else "nothing"

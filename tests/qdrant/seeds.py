"""Collections as applications leave them: every framework's payload, and vectors made by a built-in model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.points import Payload, Point, PointId
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.operations.context import OperationContext
from tests.conftest import Backend

OLD, NEW = "builtin:hashing-64", "builtin:hashing-128"
WORDS = [
    "wing",
    "boundary",
    "layer",
    "shock",
    "heat",
    "flow",
    "plate",
    "cone",
    "wake",
    "drag",
    "lift",
    "jet",
    "nozzle",
    "flutter",
    "panel",
    "buckling",
    "shell",
    "creep",
    "slip",
    "stream",
]


def text(number: int) -> str:
    """A text of some ten words, another for each number."""
    return " ".join(WORDS[(number * 7 + i * (number % 5 + 1)) % len(WORDS)] for i in range(10)) + f" report {number}"


SHAPES: dict[str, tuple[Callable[[int], Payload], str]] = {
    "langchain": (lambda n: {"page_content": text(n), "metadata": {"source": f"f{n}.txt"}}, "page_content"),
    "llama_index": (
        lambda n: {
            "_node_content": json.dumps({"id_": str(n), "text": text(n), "metadata": {}}),
            "_node_type": "TextNode",
            "doc_id": str(n),
        },
        "_node_content.text",
    ),
    "haystack": (lambda n: {"id": f"d{n}", "content": text(n), "meta": {"lang": "en"}}, "content"),
    "mcp-server-qdrant": (lambda n: {"document": text(n), "metadata": {"n": n}}, "document"),
}
"""Framework -> (its payload, the field that holds the text)."""


@asynccontextmanager
async def opened(backend: Backend, monkeypatch: pytest.MonkeyPatch, **environment: str) -> AsyncIterator[OperationContext]:
    """The context that a host's server would have."""
    for variable, value in {**backend.environment, **environment}.items():
        monkeypatch.setenv(variable, value)
    async with OperationContext(read_settings()) as context:
        yield context


async def seed(
    context: OperationContext,
    name: str,
    *,
    points: int = 40,
    payload: Callable[[int], Payload] = lambda n: {"text": text(n), "n": n},
    embedded: Callable[[int], str] = text,
    model: str = OLD,
    vector: str = "",
    identifier: Callable[[int], PointId] = lambda n: n,
    create: Mapping[str, Any] | None = None,
    others: Callable[[int], Mapping[str, Any]] = lambda n: {},
) -> None:
    """A collection whose dense field `vector` holds what `model` makes of `embedded`."""
    gateway = await context.gateway()
    embedder = await context.catalogue.load(model)
    field = {"size": embedder.spec.dimensions, "distance": "Cosine"}
    await gateway.create_collection(name, {"vectors": {vector: field} if vector else field, **(create or {})})
    if points:
        vectors = await embedder.embed([embedded(n) for n in range(points)], Side.DOCUMENT)
        rows = [Point(id=identifier(n), payload=payload(n), vectors={vector: vectors[n].tolist(), **others(n)}) for n in range(points)]
        await gateway.points.write(name, rows)

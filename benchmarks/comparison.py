"""How long does a comparison take, against what any comparison must do: embed the queries with both models, and search once?

`python -m benchmarks.comparison --out FOLDER` writes comparison.json there. A real Qdrant 1.17.0 on this machine, which holds the same
documents twice, as after a backfill; what is compared with and the comparison take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from benchmarks import place
from benchmarks.machine import load_before, machine
from benchmarks.texts import short_texts
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.domain.recipe import Endpoint, Recipe
from qdrant_model_migration.embedders.base import Row
from qdrant_model_migration.operations.compare import compare_migration
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.in_parallel import for_each
from qdrant_model_migration.results import SourceMatch

OLD, NEW = "builtin:hashing-256", "builtin:hashing-384"
MOST = 3.0
"""Times as long as what it is compared with; issue 6."""


async def filled(at: OperationContext, name: str, model: str, texts: Sequence[str]) -> None:
    """A collection of the texts, embedded with the model, with its index built."""
    embedder, gateway = await at.model(model), await at.gateway()
    await gateway.create_collection(name, {"vectors": {"size": embedder.spec.dimensions, "distance": "Cosine"}})
    for start in range(0, len(texts), 500):
        part = texts[start : start + 500]
        rows = await embedder.embed(part, Side.DOCUMENT)
        points = [
            Point(id=start + i, payload={"text": t}, vectors={"": v.tolist()}) for i, (t, v) in enumerate(zip(part, rows, strict=True))
        ]
        await gateway.points.write(name, points)
    with anyio.fail_after(300):
        while (await gateway.describe(name)).status != "green":  # noqa: ASYNC110 - the server is asked, there is no event
            await anyio.sleep(0.5)


async def migration_of(at: OperationContext) -> Migration:
    """One whose backfill is over."""
    return Migration(
        id="m-1",
        arguments_digest="",
        created_at="",
        strategy="new_collection",
        source=Endpoint(collection="old"),
        target=Endpoint(collection="new"),
        recipes=(Recipe(field="", kind="embed", source_field=""),),
        model=(await at.model(NEW)).spec,
        current_model=OLD,
        source_match=SourceMatch(model=OLD, text_field="text", sampled=32, threshold=0.98, mean_cosine=1.0, is_match=True),
        placement="new_collection",
        phase=Phase.BACKFILLED,
        dense_field="",
        text_field="text",
    )


async def least(at: OperationContext, queries: Sequence[str]) -> tuple[float, float]:
    """Seconds to embed the queries with both models, and to search the old collection once for each query: exactly, several at a time."""
    gateway = await at.gateway()
    began = time.perf_counter()
    rows = [await (await at.model(model)).embed(queries, Side.QUERY) for model in (OLD, NEW)]
    embedding = time.perf_counter() - began

    async def search(row: Row) -> None:
        await gateway.points.search("old", row.tolist(), using="", limit=10, exact=True, payload=False)

    began = time.perf_counter()
    await for_each(rows[0], search)
    return embedding, time.perf_counter() - began


async def measured(documents: int, count: int, rounds: int) -> dict[str, Any]:
    """The seconds of each round, and the median ratio."""
    texts = short_texts(documents)
    chosen = np.random.default_rng(1).choice(documents, count, replace=False)
    # A part of a document, judged: metrics, intervals and tests are computed as well.
    queries = [{"text": " ".join(texts[i].split()[3:15]), "relevant_ids": [int(i)]} for i in chosen]
    found: dict[str, Any] = {"embedding_s": [], "searching_s": [], "comparison_s": []}
    async with place.context() as at:
        for name, model in (("old", OLD), ("new", NEW)):
            await filled(at, name, model, texts)
        migration = await migration_of(at)
        await compare_migration(at, migration, queries=queries[:20])
        for _ in range(rounds):
            embedding, searching = await least(at, [str(q["text"]) for q in queries])
            began = time.perf_counter()
            outcome = await compare_migration(at, migration, queries=queries)
            assert outcome.queries == count
            for key, seconds in (("embedding_s", embedding), ("searching_s", searching), ("comparison_s", time.perf_counter() - began)):
                found[key].append(round(seconds, 3))
    ratios = [c / (e + s) for c, e, s in zip(found["comparison_s"], found["embedding_s"], found["searching_s"], strict=True)]
    return {**found, "ratio": round(statistics.median(ratios), 2), "most": MOST}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for comparison.json; only printed when left out")
    asked = parser.parse_args(argv)
    found: dict[str, Any] = {
        "machine": machine("qdrant-client", "numpy", "ir-measures"),
        "load_average_before": load_before(),
        "documents": asked.documents,
        "queries": asked.queries,
        "models": [OLD, NEW],
    }
    with place.server():
        found |= anyio.run(measured, asked.documents, asked.queries, asked.rounds)
    text = json.dumps(found, indent=2) + "\n"
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "comparison.json").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

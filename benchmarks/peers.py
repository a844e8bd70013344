"""What do people use today? The same work by the tutorial's loop, by the client's own copy, by FastEmbed as it comes, and by hand.

Each returns points (or documents) a second, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from qdrant_client import models

from benchmarks import place
from benchmarks.texts import ASSETS
from qdrant_model_migration.embedders.builtin import HashingEmbedder
from tests.servers import QdrantServer

BATCH = 100
"""Of the tutorial and of `migrate()`."""
MODEL = ASSETS / "models" / "all-MiniLM-L6-v2"
MINILM = {"minilm": {"path": str(MODEL)}}


def tutorial(running: QdrantServer, model: str) -> float:
    """Scroll a hundred, embed, upsert, wait; one after another, by REST."""
    embedder = HashingEmbedder(model.removeprefix("builtin:"))
    speaker = place.client(running)
    speaker.create_collection(
        "by-hand", vectors_config=models.VectorParams(size=embedder.spec.dimensions or 0, distance=models.Distance.COSINE)
    )
    began, count, offset = time.perf_counter(), 0, None
    while True:
        records, offset = speaker.scroll(place.SOURCE, limit=BATCH, offset=offset, with_payload=True, with_vectors=False)
        vectors = embedder._embed_all([(r.payload or {})["text"] for r in records])
        points = [models.PointStruct(id=r.id, vector=v.tolist(), payload=r.payload) for r, v in zip(records, vectors, strict=True)]
        speaker.upsert("by-hand", points, wait=True)
        count += len(points)
        if offset is None:
            break
    rate = count / (time.perf_counter() - began)
    speaker.delete_collection("by-hand")
    speaker.close()
    return rate


def migrate(running: QdrantServer, *, grpc: bool) -> float:
    """`QdrantClient.migrate`, onto a second client of the same server: under another name it cannot, so the source is on a server of its own."""
    with place.another_server() as other:
        source, target = place.client(running, grpc=grpc), place.client(other, grpc=grpc)
        count = source.count(place.SOURCE).count
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            source.migrate(target, collection_names=[place.SOURCE], batch_size=BATCH)
        rate = count / (time.perf_counter() - began)
        source.close()
        target.close()
    return rate


def id_by_id(running: QdrantServer, target: str, *, most: int = 1000) -> float:
    """Every point of the source, and its payload in the target, one request each; so many of them tell the rate."""
    speaker = place.client(running)
    began, count = time.perf_counter(), 0
    records, _ = speaker.scroll(place.SOURCE, limit=most, with_payload=True)
    for record in records:
        (found,) = speaker.retrieve(target, [record.id], with_payload=True)
        assert found.payload == record.payload
        count += 1
    rate = count / (time.perf_counter() - began)
    speaker.close()
    return rate


@cache
def _fastembed() -> Any:
    from fastembed import TextEmbedding

    return TextEmbedding("sentence-transformers/all-MiniLM-L6-v2", specific_model_path=str(MODEL))


def fastembed_defaults(texts: Sequence[str]) -> float:
    """The texts in the order of the collection, batches of 256; nothing is stored."""
    model = _fastembed()
    began = time.perf_counter()
    assert sum(1 for _ in model.embed(list(texts))) == len(texts)
    return len(texts) / (time.perf_counter() - began)


def onnxruntime_alone(texts: Sequence[str], *, batch: int = 8) -> float:
    """The machine's limit: inference alone, of texts tokenized before and sorted by length, with the same session."""
    model = _fastembed().model
    encoded = sorted((e for t in texts for e in model.tokenize([t])), key=lambda e: -len(e.ids))
    feeds = []
    for start in range(0, len(encoded), batch):
        part = encoded[start : start + batch]
        longest = max(sum(e.attention_mask) for e in part)
        ids = np.zeros((len(part), longest), dtype=np.int64)
        mask = np.zeros((len(part), longest), dtype=np.int64)
        for row, e in enumerate(part):
            length = sum(e.attention_mask)
            ids[row, :length] = e.ids[:length]
            mask[row, :length] = 1
        wanted = {i.name for i in model.model.get_inputs()}
        feeds.append(
            {k: v for k, v in {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}.items() if k in wanted}
        )
    began = time.perf_counter()
    for feed in feeds:
        model.model.run(None, feed)
    return len(texts) / (time.perf_counter() - began)

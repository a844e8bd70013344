"""Who works with the collections beside the migration: an app that writes, a reader that searches, and an oracle that compares.

They speak REST with a client of their own.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from qdrant_model_migration.embedders.builtin import HashingEmbedder
from tests.qdrant.seeds import WORDS
from tests.servers import QdrantServer
from tests.servers import request as rest

SIZE = 64
OLD_SIZE = 8
MOST_WAITED_S = 90.0
"""A fence is up for less, also when its driver dies."""

Raw = dict[str, Any]


class Collection:
    """One collection, as an app uses it."""

    def __init__(self, server: QdrantServer, name: str) -> None:
        self.server = server
        self.name = name
        self.waited = 0
        """Requests that were answered with 429 and tried again."""

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One request; what is answered with 429 is tried again, as an app does whose writes must not be lost."""
        deadline = time.monotonic() + MOST_WAITED_S
        while True:
            try:
                return rest(f"{self.server.url}/collections/{self.name}{path}", method=method, body=body)["result"]
            except OSError as error:
                if "was answered 429" not in str(error) or time.monotonic() > deadline:
                    raise
            self.waited += 1
            time.sleep(0.02)

    def upsert(self, points: list[Raw]) -> None:
        self.call("PUT", "/points?wait=true", {"points": points})

    def set_payload(self, point_id: int | str, payload: Raw) -> None:
        self.call("POST", "/points/payload?wait=true", {"payload": payload, "points": [point_id]})

    def delete(self, ids: list[int | str]) -> None:
        self.call("POST", "/points/delete?wait=true", {"points": ids})

    def points(self) -> dict[int | str, Raw]:
        """Every point with payload and vector, by id."""
        found: dict[int | str, Raw] = {}
        offset: int | str | None = None
        while True:
            page = self.call("POST", "/points/scroll", {"limit": 1000, "offset": offset, "with_payload": True, "with_vector": True})
            found.update({p["id"]: p for p in page["points"]})
            offset = page["next_page_offset"]
            if offset is None:
                return found

    def search(self, vector: list[float]) -> list[Raw]:
        return list(self.call("POST", "/points/query", {"query": vector, "limit": 3})["points"])


def text(rng: random.Random, number: int) -> str:
    """A text that no other call makes, so that each version of a point can be told from the others."""
    return " ".join(rng.choices(WORDS, k=8)) + f" {number} {rng.getrandbits(40):x}"


def point(rng: random.Random, point_id: int | str, number: int, size: int = OLD_SIZE) -> Raw:
    return {"id": point_id, "vector": [rng.uniform(-1, 1) for _ in range(size)], "payload": {"text": text(rng, number), "n": number}}


def differences(
    source: Collection, target: Collection, *, without_vector: frozenset[int | str] = frozenset(), beside: str | None = None
) -> list[str]:
    """What is wrong with the target, by a comparison that shares nothing with the product but the model itself.

    With `beside` the new vectors lie in that field, and the old ones are there as well.
    """
    model = HashingEmbedder(f"hashing-{SIZE}")
    left, right = source.points(), target.points()
    found = [f"{i} missing" for i in left.keys() - right.keys()] + [f"{i} extra" for i in right.keys() - left.keys()]
    for i in left.keys() & right.keys():
        if left[i]["payload"] != right[i]["payload"]:
            found.append(f"{i} payload {left[i]['payload']} became {right[i]['payload']}")
            continue
        vector = right[i]["vector"]
        if beside is not None:
            vector = vector if isinstance(vector, dict) else {"": vector}
            if vector.get("") != left[i]["vector"]:
                found.append(f"{i} old vector is not the source's")
            vector = vector.get(beside)
        if i in without_vector:
            if vector:
                found.append(f"{i} has a vector")
            continue
        if not vector or np.abs(np.array(vector) - model._embed_one(left[i]["payload"]["text"])).max() > 1e-5:
            found.append(f"{i} vector is not that of its text")
    return found


class UntilStopped(threading.Thread):
    """One of an app's threads: it goes on from entering to leaving; every failure of a request is kept."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._stop_asked = threading.Event()
        self.failures: list[str] = []

    def end(self) -> None:
        self._stop_asked.set()
        self.join(30)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class App(UntilStopped):
    """Writes at a steady rate until stopped: new points, full upserts, set_payload on text and on another key, deletes.

    `touches` limits it to some ids and kinds; every failure of a request is kept.
    """

    def __init__(self, collection: Collection, *, seed: int, per_second: float, ids: list[int | str], size: int = OLD_SIZE) -> None:
        super().__init__()
        self._rng = random.Random(seed)
        self._collection = collection
        self._pause_s = 1.0 / per_second
        self._ids = list(ids)
        self._size = size
        self.writes = 0
        self.kinds: tuple[str, ...] = ("new", "upsert", "text", "payload", "delete")

    def run(self) -> None:
        while not self._stop_asked.wait(self._pause_s):
            try:
                self._write(self._rng.choice(self.kinds))
                self.writes += 1
            except OSError as error:
                self.failures.append(str(error))

    def _write(self, kind: str) -> None:
        rng, number = self._rng, self.writes
        if kind == "new":
            new: int | str = rng.randrange(1, 2**63) if rng.random() < 0.5 else str(uuid.UUID(int=rng.getrandbits(128)))
            self._collection.upsert([point(rng, new, number, self._size)])
            self._ids.append(new)
            return
        where = rng.randrange(len(self._ids))
        chosen = self._ids[where]
        if kind == "upsert":
            self._collection.upsert([point(rng, chosen, number, self._size)])
        elif kind == "text":
            self._collection.set_payload(chosen, {"text": text(rng, number)})
        elif kind == "payload":
            self._collection.set_payload(chosen, {"flag": number, "tags": [number, None, {"a": number}]})
        else:
            self._ids[where] = self._ids[-1]
            self._ids.pop()
            self._collection.delete([chosen])


class Reader(UntilStopped):
    """Searches through an alias without a pause, with the vector size of the collection that answers."""

    def __init__(self, server: QdrantServer, alias: str, vectors: Callable[[], list[float]]) -> None:
        super().__init__()
        self._alias = Collection(server, alias)
        self._vectors = vectors
        self.answers = 0

    def run(self) -> None:
        while not self._stop_asked.is_set():
            try:
                if not self._alias.search(self._vectors()):
                    self.failures.append("no hit")
                self.answers += 1
            except OSError as error:
                self.failures.append(str(error))

"""Who works with a collection while a second model is added beside the first? A writer that knows the old model only, and readers that change.

All of them use the alias, as their first release did, and REST with a client of their own. The writer keeps what every point should be.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.faults.apps import Collection, Raw, UntilStopped
from tests.servers import QdrantServer

PointId = int | str
Vector = list[float]
LONG_AGO_S = 12.0
"""The writer leaves a point alone for so long after a write. Of two writes to one point, one just before the alias moves and one just after,
the second wins, and a deletion cannot be told from a point that was not there yet (operations/sweep.py)."""
KINDS = ("new", "upsert", "flag", "text", "vector", "delete")


@dataclass
class Expected:
    """What the writer knows of a point."""

    payload: Raw
    vector: Vector
    written_at: float = 0.0


@dataclass
class Texts:
    """Texts with the old model's vectors; each is given out once before any is given out again."""

    texts: list[str]
    vectors: dict[str, Vector]
    given: int = 0

    def next(self) -> str:
        self.given += 1
        return self.texts[self.given % len(self.texts)]


class Writer(UntilStopped):
    """Writes at a steady rate through the alias; never a vector of the new model. Every failure of a request is kept."""

    def __init__(self, alias: Collection, texts: Texts, *, seed: int, per_second: float) -> None:
        super().__init__()
        self._rng = random.Random(seed)
        self._alias = alias
        self._texts = texts
        self._pause_s = 1.0 / per_second
        self._may_write = threading.Event()
        self._may_write.set()
        self._is_idle = threading.Event()
        self.kinds: tuple[str, ...] = KINDS
        self.expected: dict[PointId, Expected] = {}
        self.deleted: set[PointId] = set()
        self.written: dict[str, int] = dict.fromkeys(KINDS, 0)
        self.busy_s = 0.0
        self._numbers = 0

    @property
    def writes(self) -> int:
        return sum(self.written.values())

    def made(self, point_id: PointId) -> Raw:
        """A point of a text that is due, as the app writes it: a bare list is the unnamed vector."""
        text = self._texts.next()
        self._numbers += 1
        expected = Expected(payload={"title": text, "n": self._numbers}, vector=self._texts.vectors[text], written_at=time.monotonic())
        self.expected[point_id] = expected
        return {"id": point_id, "vector": expected.vector, "payload": dict(expected.payload)}

    def run(self) -> None:
        due = began = time.monotonic()
        while not self._stop_asked.is_set():
            if not self._may_write.is_set():
                self._is_idle.set()
                self._may_write.wait(0.05)
                due = time.monotonic()
                continue
            due += self._pause_s
            # A steady rate: what a slow answer cost is made up for.
            if self._stop_asked.wait(max(0.0, due - time.monotonic())):
                break
            kind = self._rng.choice(self.kinds)
            try:
                self.written[kind] += self._write(kind)
            except OSError as error:
                self.failures.append(f"{kind}: {error}")
        self.busy_s += time.monotonic() - began

    def _write(self, kind: str) -> bool:
        """Whether there was something to write."""
        if kind == "new":
            new: PointId = (
                self._rng.randrange(10_000, 2**63) if self._rng.random() < 0.5 else str(uuid.UUID(int=self._rng.getrandbits(128)))
            )
            self._alias.upsert([self.made(new)])
            return True
        chosen = self._chosen()
        if chosen is None:
            return False
        held = self.expected[chosen]
        held.written_at = time.monotonic()
        if kind == "upsert":
            self._alias.upsert([self.made(chosen)])
        elif kind == "flag":
            held.payload["flag"] = self.writes
            self._alias.set_payload(chosen, {"flag": self.writes})
        elif kind == "text":
            held.payload["title"] = self._texts.next()
            self._alias.set_payload(chosen, {"title": held.payload["title"]})
            self._set_vector(chosen, self._texts.vectors[held.payload["title"]])
        elif kind == "vector":
            self._set_vector(chosen, [x + self._rng.gauss(0, 0.003) for x in held.vector])
        else:
            del self.expected[chosen]
            self.deleted.add(chosen)
            self._alias.delete([chosen])
        return True

    def _set_vector(self, point_id: PointId, vector: Vector) -> None:
        self.expected[point_id].vector = vector
        self._alias.call("PUT", "/points/vectors?wait=true", {"points": [{"id": point_id, "vector": vector}]})

    def _chosen(self) -> PointId | None:
        """A point that was not written lately; the first of them are among the oldest ones."""
        long_ago = time.monotonic() - LONG_AGO_S
        ids = [i for i, held in self.expected.items() if held.written_at < long_ago]
        return self._rng.choice(ids) if ids else None

    def pause(self) -> None:
        """Return when no request is on its way."""
        self._is_idle.clear()
        self._may_write.clear()
        assert self._is_idle.wait(30)

    def go_on(self) -> None:
        self._may_write.set()

    def edit_texts(self, count: int) -> list[PointId]:
        """Change text and old vector of some points, each by itself, from the test's own thread, while the writer is paused."""
        chosen = self._rng.sample(list(self.expected), count)
        for point_id in chosen:
            self.expected[point_id].payload["title"] = self._texts.next()
            self._alias.set_payload(point_id, {"title": self.expected[point_id].payload["title"]})
            self._set_vector(point_id, self._texts.vectors[self.expected[point_id].payload["title"]])
        return chosen


@dataclass
class Queries:
    """The same questions by both models."""

    old: list[Vector]
    new: list[Vector]


class Reader(UntilStopped):
    """Searches through the alias again and again: by the old model until it changes to the new field and the new model, by itself."""

    def __init__(self, server: QdrantServer, alias: str, queries: Queries) -> None:
        super().__init__()
        self._alias = Collection(server, alias)
        self._queries = queries
        self._field: str | None = None
        self.answers = {"old": 0, "new": 0}

    def change(self, new_field: str) -> None:
        """The deploy of this reader's own next release."""
        self._field = new_field

    def run(self) -> None:
        number = 0
        while not self._stop_asked.wait(0.05):
            number += 1
            using = self._field
            vectors = self._queries.old if using is None else self._queries.new
            body: Raw = {"query": vectors[number % len(vectors)], "limit": 5, **({} if using is None else {"using": using})}
            try:
                points = self._alias.call("POST", "/points/query", body)["points"]
                if len(points) < 5:
                    self.failures.append(f"{len(points)} hits by {using or 'the old vector'}")
                self.answers["old" if using is None else "new"] += 1
            except OSError as error:
                self.failures.append(str(error))


def differences(writer: Writer, found: dict[PointId, Raw], new_field: str | None) -> list[str]:
    """What is not as the writer left it: points, payloads, old vectors; with `new_field`, also points that lack it."""
    wrong = [f"{i} is lost" for i in writer.expected.keys() - found.keys()]
    wrong += [f"{i} is there {'again' if i in writer.deleted else 'from nowhere'}" for i in found.keys() - writer.expected.keys()]
    for i in found.keys() & writer.expected.keys():
        expected, vectors = writer.expected[i], vectors_of(found[i])
        if found[i]["payload"] != expected.payload:
            wrong.append(f"{i} holds {found[i]['payload']} instead of {expected.payload}")
        if not is_same(vectors.get(""), expected.vector):
            wrong.append(f"{i} has another old vector")
        if new_field is not None and not vectors.get(new_field):
            wrong.append(f"{i} lacks {new_field}")
    return wrong


def vectors_of(point: Raw) -> dict[str, Vector]:
    vector = point["vector"]
    return vector if isinstance(vector, dict) else {"": vector}


def is_same(a: Any, b: Vector) -> bool:
    """Under cosine the server stores unit vectors."""
    return a is not None and np.abs(np.asarray(a) - np.asarray(b) / np.linalg.norm(b)).max() < 1e-5

"""Who works with a large collection while it is migrated again and again? Many writers at once, and readers that follow the alias.

All of them use the alias, or what it leads to, as `app_changes` says, over connections that stay open. The writers keep what every point
should be: their own account, of which nothing is read from a server.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Self

from qdrant_model_migration.embedders.builtin import HashingEmbedder
from tests.faults.apps import SIZE, Raw, text
from tests.servers import Answered, KeptAlive, QdrantServer

PointId = int | str
OLD_SIZE = 32
LONG_AGO_S = 12.0
"""A point is left alone for so long after a write: of two writes to one point within the seconds of a swap, one just before the alias moves
and one just after, the second wins whole (operations/sweep.py)."""
KINDS = ("new", "upsert", "text", "payload", "delete")
AFTER_SWAP = ("new", "upsert", "payload") * 3 + ("delete",)
"""A text edited alone would leave a stale vector behind in a collection that serves. More deletes than one write in ten would, on a slow machine,
be a twentieth of the collection before the readers are back: that is taken for a mistake, and kept."""
BAD_REQUEST, NOT_FOUND, TOO_MANY = 400, 404, 429
RETRY_S = 0.05


class Writers:
    """Threads that together write at a steady rate, one point a call; each has points of its own."""

    def __init__(self, server: QdrantServer, alias: str, points: Sequence[Raw], *, seed: int, per_second: float, threads: int = 4) -> None:
        self.alias = alias
        self.kinds: tuple[str, ...] = KINDS
        self.per_second = per_second
        self.threads = [_Writer(self, server, points[n::threads], seed=seed * 100 + n, share=threads) for n in range(threads)]

    @property
    def writes(self) -> int:
        return sum(t.writes for t in self.threads)

    @property
    def refused(self) -> int:
        """Answers that told a writer to come again: it waited, and nothing is lost."""
        return sum(t.refused for t in self.threads)

    @property
    def failures(self) -> list[str]:
        return [f for t in self.threads for f in t.failures]

    @property
    def rate(self) -> float:
        """Accepted writes a second, while they wrote."""
        return self.writes / max(t.busy_s for t in self.threads)

    @property
    def expected(self) -> dict[PointId, Raw]:
        """The payload of every point."""
        return {i: payload for t in self.threads for i, payload in t.expected.items()}

    def pause(self) -> None:
        """Return when nobody writes any more."""
        for t in self.threads:
            t.may_write.clear()
        for t in self.threads:
            assert t.is_idle.wait(60)

    def go_on(self) -> None:
        for t in self.threads:
            t.is_idle.clear()
            t.may_write.set()

    def __enter__(self) -> Self:
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_: object) -> None:
        for t in self.threads:
            t.stop_asked.set()
        for t in self.threads:
            t.join(60)


class _Writer(threading.Thread):
    def __init__(self, all_of: Writers, server: QdrantServer, points: Sequence[Raw], *, seed: int, share: int) -> None:
        super().__init__(daemon=True)
        self._all = all_of
        self._rng = random.Random(seed)
        self._rest = KeptAlive(server)
        self._share = share
        self._models = {size: HashingEmbedder(f"hashing-{size}") for size in (OLD_SIZE, SIZE)}
        self._size = OLD_SIZE
        self.expected: dict[PointId, Raw] = {p["id"]: p["payload"] for p in points}
        self._ids = list(self.expected)
        self._written_at: dict[PointId, float] = {}
        self.stop_asked = threading.Event()
        self.may_write = threading.Event()
        self.may_write.set()
        self.is_idle = threading.Event()
        self.writes = self.refused = 0
        self.busy_s = 0.0
        self.failures: list[str] = []

    def run(self) -> None:
        due = last = time.monotonic()
        while not self.stop_asked.is_set():
            if not self.may_write.is_set():
                self.is_idle.set()
                self.may_write.wait(0.05)
                due = last = time.monotonic()
                continue
            # A steady rate: what a slow answer cost is made up for.
            due = max(due + self._share / self._all.per_second, time.monotonic() - 2.0)
            self.stop_asked.wait(max(0.0, due - time.monotonic()))
            try:
                self._write(self._rng.choice(self._all.kinds))
                self.writes += 1
            except OSError as error:
                self.failures.append(str(error))
            last, self.busy_s = time.monotonic(), self.busy_s + time.monotonic() - last
        self.is_idle.set()
        self._rest.close()

    def _write(self, kind: str) -> None:
        rng, number = self._rng, self.writes
        if kind == "new":
            new: PointId = rng.randrange(10**6, 2**63) if rng.random() < 0.5 else str(uuid.UUID(int=rng.getrandbits(128)))
            self._ids.append(new)
            self._upsert(new, {"text": text(rng, number), "n": number})
            return
        where, chosen = self._chosen()
        held = self.expected[chosen]
        if kind == "upsert":
            self._upsert(chosen, {"text": text(rng, number), "n": number})
        elif kind == "text":
            self._patch(chosen, {"text": text(rng, number)}, held)
        elif kind == "payload":
            self._patch(chosen, {"flag": number, "tags": [number, None, {"a": number}]}, held)
        else:
            self._ids[where] = self._ids[-1]
            self._ids.pop()
            self._accepted("POST", "/points/delete?wait=true", lambda: {"points": [chosen]})
            del self.expected[chosen]
        self._written_at[chosen] = time.monotonic()

    def _chosen(self) -> tuple[int, PointId]:
        while True:
            where = self._rng.randrange(len(self._ids))
            chosen = self._ids[where]
            if time.monotonic() - self._written_at.get(chosen, float("-inf")) > LONG_AGO_S:
                return where, chosen

    def _upsert(self, point_id: PointId, payload: Raw) -> None:
        def body() -> Raw:
            vector = [float(x) for x in self._models[self._size]._embed_one(payload["text"])]
            return {"points": [{"id": point_id, "vector": vector, "payload": payload}]}

        self._accepted("PUT", "/points?wait=true", body)
        self.expected[point_id] = payload
        self._written_at[point_id] = time.monotonic()

    def _patch(self, point_id: PointId, patch: Raw, held: Raw) -> None:
        self._accepted("POST", "/points/payload?wait=true", lambda: {"payload": patch, "points": [point_id]})
        self.expected[point_id] = {**held, **patch}

    def _accepted(self, method: str, path: str, body: object) -> None:
        """Until the write is accepted: a limit is waited for, and a vector of the model that has just gone is made anew."""
        while True:
            try:
                self._rest.request(method, f"/collections/{self._all.alias}{path}", body())  # type: ignore[operator]
            except Answered as error:
                if error.status == BAD_REQUEST and "dimension" in str(error):
                    self._size = SIZE if self._size == OLD_SIZE else OLD_SIZE
                    continue
                if error.status != TOO_MANY:
                    raise
                self.refused += 1
                time.sleep(RETRY_S)
            else:
                return


class Readers:
    """Resolve the alias with every query, and ask that collection, by its own name, with a vector of its model."""

    def __init__(self, server: QdrantServer, alias: str, sizes: dict[str, int], *, seed: int, threads: int = 2) -> None:
        self._stop_asked = threading.Event()
        self._threads = [
            threading.Thread(target=self._read, args=(KeptAlive(server), alias, sizes, random.Random(seed + n)), daemon=True)
            for n in range(threads)
        ]
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []

    def _read(self, rest: KeptAlive, alias: str, sizes: dict[str, int], rng: random.Random) -> None:
        while not self._stop_asked.wait(0.03):
            try:
                listed = rest.request("GET", "/aliases")["aliases"]
                name = next(a["collection_name"] for a in listed if a["alias_name"] == alias)
                vector = [rng.uniform(-1, 1) for _ in range(sizes[name])]
                found = rest.request("POST", f"/collections/{name}/points/query", {"query": vector, "limit": 3})["points"]
                if len(found) < 3:
                    self.failures.append(f"{name}: {len(found)} hits")
                self.answers[name] += 1
            except (OSError, StopIteration) as error:
                self.failures.append(repr(error))
        rest.close()

    def __enter__(self) -> Self:
        for t in self._threads:
            t.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asked.set()
        for t in self._threads:
            t.join(60)

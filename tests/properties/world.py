"""What did the app write, and what should the target hold? An app of its own, by raw REST, that remembers what it did."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

import numpy as np

from qdrant_model_migration.embedders.builtin import HashingEmbedder
from tests.servers import Answered, KeptAlive, QdrantServer

SIZE = 64
MODEL = f"builtin:hashing-{SIZE}"
NEW = "new"
"""The field beside the unnamed one, where there are two."""
Id = int | str
Raw = dict[str, Any]
State = dict[str, Any]
"""{"payload": …, "vector": …} as read; the vector by field name."""
Kind = Literal[
    "upsert", "upsert_both", "delete", "set_text", "set_other", "overwrite", "overwrite_text", "clear", "remove", "update_vector"
]
KINDS: tuple[Kind, ...] = (
    "upsert",
    "upsert_both",
    "delete",
    "set_text",
    "set_other",
    "overwrite",
    "overwrite_text",
    "clear",
    "remove",
    "update_vector",
)
IDS: tuple[Id, ...] = (1, 2, 3, 5, 8, 13, 21, 2**63 + 11, *(str(uuid.uuid5(uuid.NAMESPACE_OID, str(n))) for n in range(6)))

_model = HashingEmbedder(f"hashing-{SIZE}")


def embedded(text: str) -> list[float]:
    return [float(x) for x in _model._embed_one(text)]


def old_vector(number: int) -> list[float]:
    """Another for each number, of length 1."""
    raw = [math.sin(1.0 + number * 0.7 + i * (1 + number % 7)) for i in range(SIZE)]
    length = math.sqrt(sum(x * x for x in raw))
    return [x / length for x in raw]


def is_near(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is None and b is None
    return len(a) == len(b) and bool(np.abs(np.array(a) - np.array(b)).max() < 1e-5)


def is_same(a: State | None, b: State | None, *, fields: tuple[str, ...] = ("",)) -> bool:
    """Payload and these vectors; both may be absent."""
    if a is None or b is None:
        return a is None and b is None
    return a["payload"] == b["payload"] and all(is_near(a["vector"].get(f), b["vector"].get(f)) for f in fields)


def text_of(state: State) -> str | None:
    text = state["payload"].get("text")
    return text if isinstance(text, str) and text.strip() else None


@dataclass
class World:
    """Two collections and an alias, and what the app knows of them."""

    server: QdrantServer
    prefix: str
    is_beside: bool
    """The target keeps the old vectors, under no name, beside the new ones."""
    rest: KeptAlive = field(init=False)
    held: dict[Id, State] = field(default_factory=dict)
    """What the source holds, by what the app wrote to it."""
    fixed: dict[Id, State | None] = field(default_factory=dict)
    """What the app last wrote through the alias while the target served, as it was then; None: deleted."""
    late: set[Id] = field(default_factory=set)
    """Points of the source that were written since a swap was agreed to."""
    once: dict[Id, list[State | None]] = field(default_factory=dict)
    """All that was ever written so, by point."""
    is_carried_back: bool = False
    """A rollback was agreed to, which carries to the source what was written through the alias: the old vectors are there."""
    pending: list[Id] = field(default_factory=list)
    """Points whose second write, to the target, is still due."""
    number: int = 0

    def __post_init__(self) -> None:
        self.rest = KeptAlive(self.server)

    @property
    def source(self) -> str:
        return f"{self.prefix}-docs"

    @property
    def target(self) -> str:
        return f"{self.prefix}-new"

    @property
    def alias(self) -> str:
        return f"{self.prefix}-alias"

    # --- reading

    def read(self, collection: str, ids: list[Id] | None = None) -> dict[Id, State]:
        body: Raw = {"with_payload": True, "with_vector": True}
        if ids is None:
            page = self.rest.request("POST", f"/collections/{collection}/points/scroll", {**body, "limit": 1000})["points"]
        else:
            page = self.rest.request("POST", f"/collections/{collection}/points", {**body, "ids": ids})
        return {p["id"]: {"payload": p["payload"] or {}, "vector": _by_field(p.get("vector"))} for p in page}

    def where(self) -> str:
        """The collection that the alias leads to."""
        listed = self.rest.request("GET", "/aliases")["aliases"]
        return next(str(a["collection_name"]) for a in listed if a["alias_name"] == self.alias)

    def query(self) -> None:
        """As every reader does all the time."""
        self.rest.request("POST", f"/collections/{self.alias}/points/query", {"query": old_vector(0), "limit": 2})

    # --- writing

    def create(self, ids: set[Id]) -> None:
        self.rest.request("PUT", f"/collections/{self.source}", {"vectors": {"size": SIZE, "distance": "Cosine"}})
        action = {"create_alias": {"collection_name": self.source, "alias_name": self.alias}}
        self.rest.request("POST", "/collections/aliases", {"actions": [action]})
        for point_id in IDS:
            if point_id in ids:
                self.write_source("upsert", point_id)

    def remove(self) -> None:
        for name in (self.source, self.target):
            self.rest.request("DELETE", f"/collections/{name}")
        self.rest.close()

    def write_source(self, kind: Kind, point_id: Id) -> bool:
        """One write, and the same to what is remembered; False where there is nothing to write to."""
        now = self.held.get(point_id)
        if now is None and kind not in ("upsert", "upsert_both", "overwrite_text"):
            return False
        if now is None:
            kind = "upsert"
        if not self._send(self.source, kind, point_id, is_target=False):
            return False
        self.late.add(point_id)
        payload = self._payload(kind, now["payload"] if now else {})
        if kind == "delete":
            del self.held[point_id]
        else:
            changes = kind in ("upsert", "upsert_both", "update_vector")
            self.held[point_id] = {
                "payload": payload,
                "vector": {"": old_vector(self.number)} if changes or now is None else now["vector"],
            }
        return True

    def write_through_alias(self, kind: Kind, point_id: Id) -> bool:
        """One write to the target that serves; what it holds then is to stay."""
        now = self.read(self.target, [point_id]).get(point_id)
        if now is None and kind not in ("upsert", "upsert_both"):
            return False
        if kind == "delete" and point_id in self.late:
            # Not to be told from an insert that came late (operations/sweep.py).
            return False
        if point_id in self.pending:
            self.mirror(point_id)
        if not self._send(self.alias, kind, point_id, is_target=True):
            return False
        self.fixed[point_id] = self.read(self.target, [point_id]).get(point_id)
        self.once.setdefault(point_id, []).append(self.fixed[point_id])
        return True

    def mirror(self, point_id: Id) -> None:
        """The second write of a dual-written point, as the snippet makes it: a full upsert of what the source holds now."""
        self.pending.remove(point_id)
        held = self.read(self.source, [point_id]).get(point_id)
        if held is None:
            self.rest.request("POST", f"/collections/{self.target}/points/delete?wait=true", {"points": [point_id]})
            return
        vector = {"": held["vector"][""]} if self.is_beside else {}
        text = text_of(held)
        if text is not None:
            vector[NEW if self.is_beside else ""] = embedded(text)
        point = {"id": point_id, "payload": held["payload"], "vector": _as_sent(vector)}
        self.rest.request("PUT", f"/collections/{self.target}/points?wait=true", {"points": [point]})

    def give_back(self) -> None:
        """Copy by hand what was written through the alias while the target served."""
        for point_id, state in self.fixed.items():
            if state is None:
                self.rest.request("POST", f"/collections/{self.source}/points/delete?wait=true", {"points": [point_id]})
                self.held.pop(point_id, None)
                continue
            self.number += 1
            vector = state["vector"].get("") if self.is_beside else None
            made = {"payload": state["payload"], "vector": {"": vector or old_vector(self.number)}}
            self.rest.request(
                "PUT",
                f"/collections/{self.source}/points?wait=true",
                {"points": [{"id": point_id, "payload": made["payload"], "vector": made["vector"][""]}]},
            )
            self.held[point_id] = made

    def _send(self, collection: str, kind: Kind, point_id: Id, *, is_target: bool) -> bool:
        """Whether the write was accepted; writers are made to wait while the readers move."""
        self.number += 1
        try:
            self._request(collection, kind, point_id, is_target=is_target)
        except Answered as error:
            if error.status != HTTPStatus.TOO_MANY_REQUESTS:
                raise
            return False
        return True

    def _request(self, collection: str, kind: Kind, point_id: Id, *, is_target: bool) -> None:
        points = f"/collections/{collection}/points"
        one: Raw = {"points": [point_id]}
        match kind:
            case "upsert" | "upsert_both":
                payload = self._payload(kind, {})
                vector: Raw = {"": old_vector(self.number)}
                if is_target and not self.is_beside:
                    vector = {"": embedded(payload["text"])}
                elif is_target and kind == "upsert_both":
                    vector[NEW] = embedded(payload["text"])
                self.rest.request(
                    "PUT", f"{points}?wait=true", {"points": [{"id": point_id, "payload": payload, "vector": _as_sent(vector)}]}
                )
            case "delete":
                self.rest.request("POST", f"{points}/delete?wait=true", one)
            case "set_text" | "set_other":
                self.rest.request("POST", f"{points}/payload?wait=true", {**one, "payload": self._patch(kind)})
            case "overwrite" | "overwrite_text":
                self.rest.request("PUT", f"{points}/payload?wait=true", {**one, "payload": self._patch(kind)})
            case "clear":
                self.rest.request("POST", f"{points}/payload/clear?wait=true", one)
            case "remove":
                self.rest.request("POST", f"{points}/payload/delete?wait=true", {**one, "keys": ["flag"]})
            case "update_vector":
                body = {"points": [{"id": point_id, "vector": _as_sent({"": old_vector(self.number)})}]}
                self.rest.request("PUT", f"{points}/vectors?wait=true", body)

    def _patch(self, kind: Kind) -> Raw:
        n = self.number
        match kind:
            case "set_text":
                return {"text": f"wing edited {n}"}
            case "set_other":
                return {"flag": n, "nested": {"values": [n, None, 1.5]}}
            case "overwrite":
                return {"only": n}
            case _:
                return {"text": f"shock overwritten {n}", "flag": True}

    def _payload(self, kind: Kind, before: Mapping[str, Any]) -> Raw:
        """What the payload is after the last write."""
        match kind:
            case "upsert" | "upsert_both":
                return {"text": f"heat report {self.number}", "flag": self.number}
            case "set_text" | "set_other":
                return {**before, **self._patch(kind)}
            case "overwrite" | "overwrite_text":
                return self._patch(kind)
            case "clear":
                return {}
            case "remove":
                return {key: value for key, value in before.items() if key != "flag"}
            case _:
                return dict(before)

    # --- judging

    def source_problems(self) -> list[str]:
        """Whether the source holds what the app wrote, and nothing else but what a rollback carried back."""
        found = self.read(self.source)
        if self.is_carried_back:
            self._take_over(found)
        return [
            f"{i}: the source holds {_shown(found.get(i))}, written was {_shown(self.held.get(i))}"
            for i in found.keys() | self.held.keys()
            if not is_same(found.get(i), self.held.get(i))
        ]

    def _take_over(self, found: Mapping[Id, State]) -> None:
        """What the source got of that which was written through the alias is its own from then on."""
        for i in self.fixed:
            # A rollback whose driver died may have carried back what the app wrote over since.
            state = found.get(i)
            if not any(is_same(state, once) for once in self.once.get(i, [])):
                continue
            if state is None:
                self.held.pop(i, None)
            else:
                self.held[i] = {"payload": state["payload"], "vector": {"": state["vector"][""]}}

    def overwritten(self) -> list[str]:
        """What was written through the alias and is no longer so."""
        found = self.read(self.target) if self.fixed else {}
        return [
            f"{i}: written through the alias was {_shown(state)}, the target holds {_shown(found.get(i))}"
            for i, state in self.fixed.items()
            if not is_same(found.get(i), state)
        ]

    def newer(self) -> list[Id]:
        """Points of which the target, having served, holds what the source does not."""
        fields = ("",) if self.is_beside else ()
        return [i for i, state in self.fixed.items() if not is_same(state, self.held.get(i), fields=fields)]

    def target_problems(self, *, skips_textless: bool, is_filled: bool, beside: Mapping[Id, State | None] | None = None) -> list[str]:
        """Where the target is not what the recipes make of the source; `beside` is excepted."""
        found = self.read(self.target)
        wrong: list[str] = []
        for i in IDS:
            if beside is not None and i in beside:
                continue
            source, target = self.held.get(i), found.get(i)
            text = text_of(source) if source is not None else None
            if source is None:
                if target is not None:
                    wrong.append(f"{i}: resurrected, or not deleted: {_shown(target)}")
                continue
            if target is None:
                if skips_textless and text is None and not self.is_beside:
                    # Held all the same where the app itself wrote it to the target.
                    continue
                wrong.append(f"{i}: lost; the source holds {_shown(source)}")
                continue
            if target["payload"] != source["payload"]:
                wrong.append(f"{i}: payload {target['payload']} instead of {source['payload']}")
            if self.is_beside and not is_near(target["vector"].get(""), source["vector"][""]):
                wrong.append(f"{i}: the old vector is not the source's")
            made = target["vector"].get(NEW if self.is_beside else "")
            if is_filled and text is not None and not is_near(made, embedded(text)):
                wrong.append(f"{i}: the new vector is not that of {text!r}")
        return wrong

    def unlike_own_text(self) -> list[str]:
        """Points of a target beside whose new vector is not that of the text they hold."""
        found = self.read(self.target)
        return [
            f"{i}: the new vector is not that of {text!r}"
            for i, state in found.items()
            if (text := text_of(state)) is not None and not is_near(state["vector"].get(NEW), embedded(text))
        ]


def _by_field(vector: Any) -> Raw:
    if vector is None:
        return {}
    return dict(vector) if isinstance(vector, dict) else {"": vector}


def _as_sent(vector: Raw) -> Any:
    return vector[""] if set(vector) == {""} else vector


def _shown(state: State | None) -> str:
    if state is None:
        return "nothing"
    vectors = {name: [round(x, 3) for x in v[:2]] for name, v in sorted(state["vector"].items())}
    return f"{state['payload']} {vectors}"

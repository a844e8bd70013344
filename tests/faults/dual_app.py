"""An app that writes by the dual-write snippet: `dual_app.py SNIPPET CONFIG`. It writes so often as each line of its input says, and tells what it did.

The snippet is imported from a file, as whoever pasted it would have it.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import uuid
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from qdrant_client import QdrantClient, models

from qdrant_model_migration.embedders.builtin import HashingEmbedder

KINDS = (
    "insert",
    "upsert",
    "text",
    "flag",
    "flag by filter",
    "overwrite",
    "clear",
    "delete_payload",
    "update_vectors",
    "delete",
    "delete by filter",
    "missing",
)


def pasted(path: str) -> ModuleType:
    """The snippet as a module of the app's own."""
    spec = importlib.util.spec_from_file_location("dual_writes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class App:
    """One writer, which knows every point there is."""

    def __init__(self, writer: Any, *, ids: list[int | str], seed: int, size: int) -> None:
        self.writer = writer
        self.rng = random.Random(seed)
        self.ids = ids
        self.size = size
        self.number = 1_000_000
        self.failures: list[str] = []
        self.done: Counter[str] = Counter()

    def vector(self) -> list[float]:
        return [self.rng.uniform(-1, 1) for _ in range(self.size)]

    def payload(self) -> dict[str, Any]:
        self.number += 1
        return {"text": f"a text of the app {self.number} {self.rng.getrandbits(40):x}", "n": self.number}

    def points(self, ids: list[int | str]) -> list[models.PointStruct]:
        return [models.PointStruct(id=i, vector=self.vector(), payload=self.payload()) for i in ids]

    def some(self) -> list[int | str]:
        return self.rng.sample(self.ids, self.rng.randint(1, 3))

    def n_of(self, point_id: int | str) -> tuple[models.Filter, list[int | str]]:
        """A filter that finds this point alone, and what it finds: after the app's own overwrite no point holds its number any more."""
        number = self.payload()["n"]
        self.writer.set_payload({"n": number}, [point_id])
        return models.Filter(must=[models.FieldCondition(key="n", match=models.MatchValue(value=number))]), [point_id]

    def write(self, kind: str) -> None:
        rng, writer = self.rng, self.writer
        ids = self.some()
        match kind:
            case "insert":
                new: list[int | str] = [rng.getrandbits(64), str(uuid.UUID(int=rng.getrandbits(128)))]
                writer.upsert(self.points(new))
                self.ids += new
            case "upsert":
                writer.upsert(self.points(ids))
            case "text":
                writer.set_payload({"text": self.payload()["text"]}, ids)
            case "flag":
                writer.set_payload({"flag": self.number, "tags": [1, 1.5, None, {"a": True}]}, ids)
            case "flag by filter":
                found, _ = self.n_of(ids[0])
                writer.set_payload({"by filter": self.number}, found)
            case "overwrite":
                writer.overwrite_payload(self.payload(), ids)
            case "clear":
                writer.clear_payload(ids)
            case "delete_payload":
                writer.delete_payload([rng.choice(["text", "flag", "n"])], ids)
            case "update_vectors":
                writer.update_vectors([models.PointVectors(id=i, vector=self.vector()) for i in ids])
            case "delete":
                writer.delete(ids)
                self.ids = [i for i in self.ids if i not in ids]
            case "delete by filter":
                found, gone = self.n_of(ids[0])
                writer.delete(found)
                self.ids = [i for i in self.ids if i not in gone]
            case "missing":
                # A server applies a part of it and answers 404, the embedded database raises KeyError: the app's own mistake, as before.
                try:
                    writer.set_payload({"part": self.number}, [*ids, rng.getrandbits(64)])
                except KeyError:
                    pass
                except Exception as error:
                    if "404" not in str(error) and "NOT_FOUND" not in str(error).upper():
                        raise
        self.done[kind] += 1

    def burst(self, writes: int) -> dict[str, Any]:
        """So many writes, each kind in turn; what was done so far."""
        for number in range(writes):
            kind = KINDS[number % len(KINDS)]
            try:
                self.write(kind)
            except Exception as error:  # noqa: BLE001 - every failure of a request is what the test looks for
                self.failures.append(f"{kind}: {type(error).__name__} {error}")
        return {"done": dict(self.done), "failures": self.failures, "ids": len(self.ids)}


def main() -> None:
    config = json.loads(Path(sys.argv[2]).read_text())
    module = pasted(sys.argv[1])
    model = HashingEmbedder(config["model"])

    def embed_documents(texts: list[str]) -> list[Any]:
        return [model._embed_one(text) for text in texts]

    client = QdrantClient(**config["client"])
    try:
        app = App(module.DualWriter(client, embed_documents), ids=config["ids"], seed=config["seed"], size=config["size"])
        for line in sys.stdin:
            print(json.dumps(app.burst(int(line))), flush=True)
    finally:
        client.close()


if __name__ == "__main__":
    main()

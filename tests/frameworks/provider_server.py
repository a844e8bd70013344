"""A server on loopback that speaks the embedding protocols of Cohere, Voyage and Google, as their SDKs do, and keeps what it was asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from qdrant_model_migration.embedders.builtin import HashingEmbedder
from tests.loopback import SilentHandler, listening

NATIVE, SHORT = 64, 32
MODELS = {size: HashingEmbedder(f"hashing-{size}") for size in (NATIVE, SHORT)}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request, in words that all three have."""

    path: str
    key: str
    texts: list[str]
    side: str
    dimensions: int | None


@dataclass
class ProviderServer:
    """`refusals` are the next answers: a status, a body and headers."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    refusals: list[tuple[int, dict[str, Any], dict[str, str]]] = field(default_factory=list)

    def answer(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, str]]:
        key = headers.get("x-goog-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        if path.startswith("/v1beta/"):
            requests = body["requests"]
            texts, side = [r["content"]["parts"][0]["text"] for r in requests], requests[0]["taskType"]
            dimensions = requests[0].get("outputDimensionality")
        else:
            texts = body["texts"] if path == "/v2/embed" else body["input"]
            side, dimensions = body["input_type"], body.get("output_dimension")
        self.asked.append(Asked(path=path, key=key, texts=texts, side=side, dimensions=dimensions))
        if self.refusals:
            return self.refusals.pop(0)
        vectors = [[float(x) for x in MODELS[dimensions or NATIVE]._embed_one(text)] for text in texts]
        match path:
            case "/v2/embed":
                told: dict[str, Any] = {"id": "1", "response_type": "embeddings_by_type", "texts": texts, "embeddings": {"float": vectors}}
                return 200, {**told, "meta": {"billed_units": {"input_tokens": len(texts)}}}, {}
            case "/v1/embeddings":
                data = [{"object": "embedding", "embedding": v, "index": i} for i, v in enumerate(vectors)]
                return 200, {"object": "list", "data": data, "model": body["model"], "usage": {"total_tokens": len(texts)}}, {}
            case _:
                assert path.endswith(":batchEmbedContents"), path
                return 200, {"embeddings": [{"values": v} for v in vectors]}, {}


@contextmanager
def provider_server() -> Iterator[ProviderServer]:
    found = ProviderServer()

    class Handler(SilentHandler):
        def do_POST(self) -> None:  # noqa: N802 - the base class names it
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, answer, more = found.answer(self.path.partition("?")[0], headers, body)
            payload = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(payload)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(payload)

    with listening(Handler) as found.url:
        yield found

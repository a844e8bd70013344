"""Do Cohere's, Voyage's and Google's own SDKs embed as we say they do? Against a server on loopback that speaks their protocols."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.frameworks import installed
from tests.frameworks.provider_server import MODELS, NATIVE, SHORT, ProviderServer, provider_server
from tests.pinned import required

ROOT = Path(__file__).resolve().parents[2]
KEY = "a-key-of-the-provider"
PROVIDERS = {
    "cohere": ("embed-v4.0", "", ("search_document", "search_query"), 128_000),
    "voyageai": ("voyage-4", "/v1", ("document", "query"), 32_000),
    "google": ("gemini-embedding-001", "", ("RETRIEVAL_DOCUMENT", "RETRIEVAL_QUERY"), 2_048),
}
"""Provider -> (model, what follows the address, its words for both sides, the tokens that the model reads)."""


@pytest.fixture(scope="module", autouse=True)
def sdks() -> None:
    """Fails in CI where they cannot be had, and skips elsewhere."""
    required(installed.install, "SDKs")


def said(text: str) -> dict[str, Any]:
    """A refusal where Cohere, Voyage and Google have it."""
    return {"message": text, "detail": text, "error": {"message": text}}


class Model:
    """The process, seen from outside."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child

    def told(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        assert line, self._child.stderr.read() if self._child.stderr else ""
        found: dict[str, Any] = json.loads(line)
        return found

    def embed(self, side: str, texts: list[str]) -> dict[str, Any]:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps([side, texts]) + "\n")
        self._child.stdin.flush()
        return self.told()


@contextmanager
def model_of(provider: str, server: ProviderServer, **entry: Any) -> Iterator[Model]:
    model, ending, _, _ = PROVIDERS[provider]
    configured = {"provider": provider, "model": model, "base_url": server.url + ending, "key_variable": "THEIR_KEY", **entry}
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "server"), "THEIR_KEY": KEY}
    environment["QDRANT_MIGRATION_MODELS"] = json.dumps({"theirs": configured})
    command = [str(installed.PYTHON), str(Path(__file__).with_name("sdks.py")), "theirs"]
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, text=True)
    try:
        yield Model(child)
    finally:
        try:
            child.communicate(timeout=30)
        finally:
            child.kill()


@pytest.mark.parametrize("provider", list(PROVIDERS))
def test_both_sides_are_asked_for_in_the_providers_words_and_in_requests_that_it_takes(home: Path, provider: str) -> None:
    _, _, (document, query), most = PROVIDERS[provider]
    texts = [f"report {n} on wing flutter" for n in range(100)]
    with provider_server() as server, model_of(provider, server) as model:
        assert model.told() == {"dimensions": NATIVE, "max_tokens": most}
        server.asked.clear()
        found = np.array(model.embed("document", texts)["vectors"])
        assert np.abs(found - np.array([MODELS[NATIVE]._embed_one(text) for text in texts])).max() < 1e-5
        assert [len(r.texts) for r in server.asked] == [96, 4]
        assert {(r.key, r.side, r.dimensions) for r in server.asked} == {(KEY, document, None)}
        model.embed("query", ["wing"])
        assert (server.asked[-1].side, server.asked[-1].texts) == (query, ["wing"])


@pytest.mark.parametrize("provider", list(PROVIDERS))
def test_fewer_dimensions_are_asked_of_the_provider(home: Path, provider: str) -> None:
    with provider_server() as server, model_of(provider, server, dimensions=SHORT) as model:
        assert model.told()["dimensions"] == SHORT
        found = np.array(model.embed("document", ["wing"])["vectors"])
        assert np.abs(found - MODELS[SHORT]._embed_one("wing")).max() < 1e-5
        assert server.asked[-1].dimensions == SHORT


@pytest.mark.parametrize("provider", list(PROVIDERS))
def test_a_refusal_comes_at_once_with_what_the_provider_said(home: Path, provider: str) -> None:
    """The SDKs' own retries would sleep where no stop reaches them; the key is never repeated."""
    with provider_server() as server, model_of(provider, server) as model:
        model.told()
        server.asked.clear()
        server.refusals.append((429, said("slow down"), {"Retry-After": "7"}))
        busy = model.embed("document", ["wing"])
        assert busy["error"] == "TransientEmbedding"
        assert busy["retry_after_s"] == 7.0
        assert busy["seconds"] < 5
        server.refusals.append((503, {"message": "away"}, {}))
        assert model.embed("document", ["wing"])["error"] == "TransientEmbedding"
        server.refusals.append((401, said(f"invalid key {KEY}"), {}))
        refused = model.embed("document", ["wing"])
        assert refused["error"] == "ModelNotUsable"
        assert "THEIR_KEY" in refused["text"]
        assert KEY not in refused["text"]
        assert len(server.asked) == 3, "nothing is asked twice"

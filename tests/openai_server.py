"""A real HTTP server on loopback that speaks OpenAI's POST /v1/embeddings and can be told to misbehave."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import numpy as np

from qdrant_model_migration.embedders.builtin import HashingEmbedder


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A scripted answer to the next request, instead of vectors."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    hang_up: bool = False
    spoil: Callable[[list[list[float]]], list[list[float]]] | None = None
    """Changes the vectors of an otherwise normal answer."""


@dataclass(frozen=True, kw_only=True)
class Request:
    texts: list[str]
    model: str
    dimensions: int | None
    headers: dict[str, str]


class OpenAIServer:
    """Vectors come from the built-in hashing model, so that they are deterministic and searchable.

    `dimensions` is the native size; `can_shrink` says whether the request's own `dimensions` is honoured or refused.
    Requests with a text that contains POISON are refused (400), with more than `most_texts` texts as well.
    """

    def __init__(self, dimensions: int = 64, *, can_shrink: bool = True, most_texts: int = 2048) -> None:
        self.dimensions = dimensions
        self.can_shrink = can_shrink
        self.most_texts = most_texts
        self.requests: list[Request] = []
        self.script: list[Answer] = []
        self.always: Answer | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"  # one request a connection: none outlives the server

            def do_POST(self) -> None:
                outer._answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def texts(self) -> list[list[str]]:
        """What each request so far held, in order."""
        return [request.texts for request in self.requests]

    def _answer(self, http: BaseHTTPRequestHandler) -> None:
        sent = json.loads(http.rfile.read(int(http.headers["content-length"])))
        texts = [sent["input"]] if isinstance(sent["input"], str) else list(sent["input"])
        headers = {key.lower(): value for key, value in http.headers.items()}
        self.requests.append(Request(texts=texts, model=sent["model"], dimensions=sent.get("dimensions"), headers=headers))
        answer = self.script.pop(0) if self.script else self.always or Answer()
        time.sleep(answer.delay_s)
        if answer.hang_up:
            http.close_connection = True
            return
        if answer.status == 200 and answer.body is None:
            answer = self._vectors(texts, sent, answer)
        body = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
        payload = body.encode()
        try:
            http.send_response(answer.status)
            for key, value in {"content-type": "application/json", **answer.headers}.items():
                http.send_header(key, value)
            http.send_header("content-length", str(len(payload)))
            http.end_headers()
            http.wfile.write(payload)
        except OSError:
            pass  # the client was interrupted

    def _vectors(self, texts: list[str], sent: dict[str, Any], answer: Answer) -> Answer:
        size = sent.get("dimensions") or self.dimensions
        if size != self.dimensions and not self.can_shrink:
            return refusal("This model does not support specifying dimensions.")
        if len(texts) > self.most_texts:
            return refusal(f"Too many inputs: {len(texts)} exceed the maximum allowed batch size of {self.most_texts}.", 422)
        if any("POISON" in text for text in texts):
            return refusal("Invalid input.")
        model = HashingEmbedder(f"hashing-{size}")
        rows = [[float(value) for value in model._embed_one(text or " ")] for text in texts]
        if answer.spoil:
            rows = answer.spoil(rows)
        as_base64 = sent.get("encoding_format") == "base64" and not answer.spoil
        data = [
            {
                "object": "embedding",
                "index": i,
                "embedding": base64.b64encode(np.array(row, "<f4").tobytes()).decode() if as_base64 else row,
            }
            for i, row in enumerate(rows)
        ]
        tokens = sum(len(text.split()) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return Answer(body={"object": "list", "data": data, "model": sent["model"], "usage": usage}, headers=answer.headers)


def refusal(message: str, status: int = 400, *, code: str | None = None, headers: dict[str, str] | None = None) -> Answer:
    """An error in OpenAI's form."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return Answer(status=status, body={"error": error}, headers=headers or {})

"""An inference service as Qdrant Cloud has one behind its servers: what a server that is told its address asks for `Document`s.

The vectors are made up, but depend on text, model, side and options, so that a test sees which of them arrived.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DIMENSIONS = 8
UNKNOWN = "acme/unknown"


def vector(text: str, model: str, side: str, dimensions: int = DIMENSIONS) -> list[float]:
    """What the service answers for a text: `side` is `update` or `search`."""
    digest = hashlib.sha256(f"{model}/{side}/{text}".encode()).digest()
    return [digest[i] / 64 - 2 for i in range(dimensions)]


class InferenceService:
    """A running service and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                service.asked.append(request)
                if any(one["model"] == UNKNOWN for one in request["inputs"]):
                    self._answer(400, {"error": "there is no such model"})
                    return
                made = [vector(one["data"], one["model"], request["inference"]) for one in request["inputs"]]
                self._answer(200, {"embeddings": made})

            def _answer(self, status: int, body: object) -> None:
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: the tests' output is their own."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def settings(self) -> dict[str, str]:
        """Settings of a Qdrant server that uses it."""
        return {"QDRANT__INFERENCE__ADDRESS": f"http://127.0.0.1:{self._server.server_address[1]}/infer"}

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def inference_service() -> Iterator[InferenceService]:
    """A service for the length of a test."""
    service = InferenceService()
    service.start()
    try:
        yield service
    finally:
        service.stop()

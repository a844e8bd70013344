"""Is MCP over HTTP open to those it should be open to, and to nobody else?"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from qdrant_model_migration.serving import MOST_BYTES, PATH, is_loopback
from tests.mcp.over_http import started

TOKEN = "a-token-of-thirty-two-characters"
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
Serve = Callable[..., str]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts `serve --http` on a free port and gives the address it tells; gone after the test."""
    running: list[subprocess.Popen[str]] = []

    def start(*options: str, **environment: str) -> str:
        process, url = started(options, {"QDRANT_PATH": str(tmp_path / "qdrant"), **environment})
        running.append(process)
        return url

    yield start
    for process in running:
        process.terminate()
        out, err = process.communicate(timeout=20)
        assert out == ""
        assert TOKEN not in err


def post(url: str, headers: dict[str, str] | None = None, body: bytes | None = None) -> int:
    """Status of a raw request."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        sent = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **(headers or {})}
        connection.request("POST", parts.path, json.dumps(HELLO).encode() if body is None else body, sent)
        return connection.getresponse().status
    finally:
        connection.close()


async def tools_at(url: str, token: str | None = None) -> list[str]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    with anyio.fail_after(30):
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=20))
            connected = await stack.enter_async_context(Client(streamable_http_client(url, http_client=client)))
            inspected = await connected.call_tool("inspect_collection", {})
            assert not inspected.is_error
            return [tool.name for tool in (await connected.list_tools()).tools]


async def test_without_a_token_this_machine_is_served(serve: Serve) -> None:
    url = serve()
    assert urlsplit(url).hostname == "127.0.0.1"
    assert urlsplit(url).path == PATH
    assert len(await tools_at(url)) == 12


async def test_with_a_token_only_those_who_have_it_are_served(serve: Serve) -> None:
    url = serve(QDRANT_MIGRATION_HTTP_TOKEN=TOKEN)
    assert len(await tools_at(url, TOKEN)) == 12
    assert post(url, {"Authorization": f"bearer {TOKEN}"}) == 200
    wrong = ["", TOKEN, f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", "Bearer wr\xf6ng"]
    assert [post(url, {"Authorization": header}) for header in wrong] == [401] * len(wrong)
    assert post(url) == 401
    # Nothing but the path of MCP is there, and the token is asked for before that is told.
    assert post(url.replace(PATH, "/other")) == 401


def test_another_host_or_origin_is_refused(serve: Serve) -> None:
    url = serve()
    port = urlsplit(url).port
    assert post(url, {"Host": f"localhost:{port}"}) == 200
    assert post(url, {"Origin": f"http://127.0.0.1:{port}"}) == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1:1", f"localhost.evil.example:{port}"):
        assert post(url, {"Host": host}) == 421, host
    for origin in ("http://evil.example", "null", f"http://127.0.0.1.evil.example:{port}", "http://localhost:1"):
        assert post(url, {"Origin": origin}) == 403, origin


def test_a_name_behind_a_proxy_is_allowed_when_it_is_stated(serve: Serve) -> None:
    url = serve("--allow-host", "mcp.example")
    assert post(url, {"Host": "mcp.example", "Origin": "https://mcp.example"}) == 200
    assert post(url, {"Host": "other.example"}) == 421


def test_a_request_that_is_too_large_is_refused(serve: Serve) -> None:
    url = serve()
    assert post(url, body=b'{"jsonrpc": "2.0", "x": "' + b"x" * MOST_BYTES + b'"}') == 413
    assert post(url) == 200


@pytest.mark.parametrize(
    ("options", "token", "says"),
    [
        (("--host", "0.0.0.0"), None, "QDRANT_MIGRATION_HTTP_TOKEN"),  # noqa: S104 - that it is refused is what is tested
        (("--host", "::"), None, "QDRANT_MIGRATION_HTTP_TOKEN"),
        (("--host", "qdrant.example"), None, "QDRANT_MIGRATION_HTTP_TOKEN"),
        ((), "short", "QDRANT_MIGRATION_HTTP_TOKEN"),
        (("--host", "192.0.2.1"), TOKEN, "cannot be listened on"),
    ],
)
def test_what_would_be_open_to_others_is_not_served(options: tuple[str, ...], token: str | None, says: str) -> None:
    environment = {**os.environ} | ({} if token is None else {"QDRANT_MIGRATION_HTTP_TOKEN": token})
    command = [sys.executable, "-m", "qdrant_model_migration", "serve", "--http", "--port", "0", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert token is None or token not in done.stderr


def test_a_wildcard_address_is_served_with_a_token(serve: Serve) -> None:
    url = serve("--host", "0.0.0.0", QDRANT_MIGRATION_HTTP_TOKEN=TOKEN)  # noqa: S104 - that it is guarded is what is tested
    local = url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
    assert post(local, {"Authorization": f"Bearer {TOKEN}"}) == 200
    assert post(local) == 401
    assert post(local, {"Authorization": f"Bearer {TOKEN}", "Host": "evil.example"}) == 421


def test_loopback_is_told_from_the_rest() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "LOCALHOST"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "", "10.0.0.1", "localhost.example", "127.0.0.1.example"))  # noqa: S104

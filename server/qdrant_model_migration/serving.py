"""How is MCP served over HTTP? On loopback unless a token guards it; the names and origins of browsers checked; requests of a bounded size."""

from __future__ import annotations

import hmac
import ipaddress
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import SecretStr

from qdrant_model_migration.errors import Refused, SettingsError
from qdrant_model_migration.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PATH = "/mcp"
MOST_BYTES = 4 * 1024 * 1024
"""A request: ten thousand queries of a few hundred characters fit."""
LEAST_TOKEN_CHARS = 16


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to listen on."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def http_app(server: MCPServer[Any], token: SecretStr | None, *, host: str, port: int, names: Sequence[str] = ()) -> ASGIApp:
    """The application: MCP at /mcp behind the checks.

    `names` are further host names by which clients reach it; without one of them a request is refused (DNS rebinding).
    """
    reached = {"127.0.0.1", "localhost", "[::1]", *names}
    if not is_loopback(host):
        wildcard = host in ("0.0.0.0", "::", "[::]", "")  # noqa: S104 - compared, not bound
        reached.add(socket.gethostname() if wildcard else _bracketed(host))
    hosts = sorted({entry for name in reached for entry in (name, f"{name}:{port}")})
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        max_request_body_size=MOST_BYTES,
        transport_security=TransportSecuritySettings(
            allowed_hosts=hosts, allowed_origins=[f"{scheme}://{name}" for name in hosts for scheme in ("http", "https")]
        ),
        host=host,
    )
    return app if token is None else _Guarded(app, token)


class _Guarded:
    """Lets only requests with the bearer token through."""

    def __init__(self, app: ASGIApp, token: SecretStr) -> None:
        self._app = app
        self._expected = b"bearer " + token.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import PlainTextResponse

        if scope["type"] == "http" and not self._is_allowed(dict(scope["headers"]).get(b"authorization", b"")):
            answer = PlainTextResponse("A bearer token is required.", status_code=401, headers={"WWW-Authenticate": "Bearer"})
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_allowed(self, header: bytes) -> bool:
        scheme, _, given = header.partition(b" ")
        return hmac.compare_digest(scheme.lower() + b" " + given.strip(), self._expected)


def serve_http(server: MCPServer[Any], settings: Settings, *, host: str, port: int, names: Sequence[str] = ()) -> None:
    """Serve until stopped. Port 0 takes a free one; the address is told on stderr.

    Raises:
        SettingsError: the address is reached from other machines and no token is set, or the token is too short to guard anything.
        Refused: the address cannot be listened on.
    """
    import uvicorn

    token = settings.http_token
    if token is None and not is_loopback(host):
        raise SettingsError(
            f"Not serving: {host} is reached from other machines, so QDRANT_MIGRATION_HTTP_TOKEN must be set (clients send it as a bearer token). "
            "Without a token serve on 127.0.0.1."
        )
    if token is not None and len(token.get_secret_value()) < LEAST_TOKEN_CHARS:
        raise SettingsError(f"Not serving: QDRANT_MIGRATION_HTTP_TOKEN has fewer than {LEAST_TOKEN_CHARS} characters and could be guessed.")
    listener = _listen(host, port)
    with listener:
        port = listener.getsockname()[1]
        app = http_app(server, token, host=host, port=port, names=names)
        guard = "with a bearer token" if token is not None else "without a token, this machine only"
        sys.stderr.write(f"Serving MCP at http://{_bracketed(host)}:{port}{PATH} ({guard}).\n")
        sys.stderr.flush()
        # Its own logging would put requests on stdout.
        uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, server_header=False)).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Before the address is told: who connects from then on waits instead of being refused.
        listener.listen(128)
    except OSError as error:
        raise Refused(f"Not serving: {host}:{port} cannot be listened on ({error.strerror or type(error).__name__}). Choose another with --host and --port.") from None  # fmt: skip
    return listener


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host

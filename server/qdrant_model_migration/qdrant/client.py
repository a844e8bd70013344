"""How is Qdrant called? Opening a connection, retrying what is transient, and turning every fault into one of ours."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TypeVar
from urllib.parse import urlsplit

import anyio
import grpc
import stamina
from qdrant_client import AsyncQdrantClient
from qdrant_client import grpc as grpc_messages
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from qdrant_model_migration.errors import (
    AccessDenied,
    AlreadyExists,
    BatchTooLarge,
    ConnectionFailed,
    MigrationError,
    NotFound,
    RateLimited,
    RequestRejected,
    Unsupported,
)
from qdrant_model_migration.qdrant.clock import SharedClock
from qdrant_model_migration.redaction import redacted
from qdrant_model_migration.settings import Connection

T = TypeVar("T")
MAX_MESSAGE = 300


class Caller:
    """Calls one Qdrant. Transient faults are retried for `patience_s`; everything else becomes a MigrationError at once.

    Every call made through it is safe to repeat: reads, guarded writes, and writes whose repetition changes nothing.
    """

    def __init__(
        self, connection: Connection, rest: AsyncQdrantClient, fast: AsyncQdrantClient, *, patience_s: float, timeout_s: float
    ) -> None:
        self.connection = connection
        self.rest = rest
        self.fast = fast
        """The gRPC client where that is preferred, else the same as `rest`."""
        self.patience_s = patience_s
        self.timeout_s = timeout_s
        self.clock = SharedClock()
        self._turn = anyio.Lock()
        self._check: Callable[[], None] | None = None

    @property
    def stub(self) -> grpc_messages.PointsStub | None:
        """What sends messages of gRPC as they are, by the client's own channel; None where REST is used."""
        return None if self.fast is self.rest else self.fast.grpc_points

    def guarded(self, check: Callable[[], None]) -> Caller:
        """The same connection, where `check` may raise before every try of a request: a retry may come long after the first."""
        made = Caller(self.connection, self.rest, self.fast, patience_s=self.patience_s, timeout_s=self.timeout_s)
        made._turn, made._check, made.clock = self._turn, check, self.clock
        return made

    async def __call__(self, act: Callable[[], Awaitable[T]]) -> T:
        """Carry out one request.

        Raises:
            ConnectionFailed: still failing after `patience_s`.
            MigrationError: any other fault, translated.
        """
        if self.connection.is_embedded:
            # The embedded database is not safe for interleaved calls and blocks the loop: one at a time, with a breath between.
            async with self._turn:
                await anyio.lowlevel.checkpoint()
                return await self.once(act)
        async for attempt in stamina.retry_context(
            on=self._retry_delay, attempts=None, timeout=self.patience_s, wait_initial=0.2, wait_max=5.0, wait_jitter=0.5
        ):
            with attempt:
                return await self.once(act)
        raise AssertionError("stamina yields at least one attempt")

    async def once(self, act: Callable[[], Awaitable[T]]) -> T:
        """As a call, but never repeated: for a request whose failure is the answer."""
        if self._check is not None:
            self._check()
        try:
            return await act()
        except MigrationError:
            raise
        except ResourceExhaustedResponse as error:
            # A 429 without retry-after means that the batch can never pass the limiter.
            raise RateLimited(
                f"Qdrant's rate limit was reached, and it asks to wait {error.retry_after_s} s. {_SLOW_DOWN}", float(error.retry_after_s)
            ) from None
        except QdrantException:
            # A proxy's retry-after may be a date, which the client cannot read. Clocks differ, so it is waited for as for any other fault.
            raise RateLimited(f"Qdrant, or what stands in front of it, asks to slow down (429). {_SLOW_DOWN}") from None
        except UnexpectedResponse as error:
            raise from_status(error, self.connection) from None
        except ResponseHandlingException as error:
            raise self._unreachable(type(error.source).__name__) from None
        except (ConnectionError, TimeoutError) as error:
            raise self._unreachable(type(error).__name__) from None
        except grpc.aio.AioRpcError as error:
            raise self._from_grpc(error) from None
        except (ValueError, KeyError, NotImplementedError) as error:
            if self.connection.is_embedded:
                raise from_embedded(error) from None
            raise

    def _unreachable(self, kind: str) -> ConnectionFailed:
        return ConnectionFailed(
            f"Qdrant (connection '{self.connection.name}') does not answer ({kind}). Check that the server runs and that {_settings_of(self.connection)[0]} names it; "
            "`qdrant-model-migration doctor` tells more."
        )

    def _from_grpc(self, error: grpc.aio.AioRpcError) -> MigrationError:
        code, text = error.code(), _short(error.details() or "", self.connection)
        if _NO_INFERENCE in text:
            return no_inference(text)
        kinds: dict[grpc.StatusCode, Callable[[str], MigrationError]] = {
            grpc.StatusCode.NOT_FOUND: NotFound,
            grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
            grpc.StatusCode.INVALID_ARGUMENT: RequestRejected,
            grpc.StatusCode.UNAUTHENTICATED: lambda _: no_key(self.connection),
            grpc.StatusCode.PERMISSION_DENIED: lambda t: AccessDenied(f"The key lacks a right: {t}."),
            grpc.StatusCode.UNIMPLEMENTED: lambda t: Unsupported(f"This Qdrant does not know the call: {t}."),
            grpc.StatusCode.RESOURCE_EXHAUSTED: lambda t: BatchTooLarge(f"Qdrant refused the size or rate of the request: {t}."),
        }
        if code in kinds:
            return kinds[code](text)
        return self._unreachable(code.name) if code in _NO_ANSWER else failing(code.name, text)

    def _retry_delay(self, error: Exception) -> bool | timedelta:
        """A wait beyond the patience of this caller is left to whoever asked, with its length."""
        if isinstance(error, RateLimited) and error.retry_after_s is not None:
            return error.retry_after_s <= self.patience_s and timedelta(seconds=max(0.1, error.retry_after_s))
        return isinstance(error, ConnectionFailed)


_NO_ANSWER = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})
_SLOW_DOWN = "Lower points_per_second with control_backfill, or raise the rate limit in the collection's strict mode."
_DISK_FULL = "no space left on device"


def failing(status: str, text: str) -> ConnectionFailed:
    """The server answers that it cannot, for a reason of its own."""
    if _DISK_FULL in text.lower():
        return ConnectionFailed(
            f"The disk of Qdrant is full: {text}. Nothing is lost: it still answers reads, and refuses writes. Free or add space there; a worker that runs "
            "goes on by itself, else make the same call again."
        )
    said = text.rstrip(".") or "it gave no reason"
    return ConnectionFailed(f"Qdrant failed with status {status}: {said}. Its log tells more; make the same call again when it is well.")


_NO_INFERENCE = "InferenceService URL not configured"


def no_inference(text: str) -> Unsupported:
    """The server says so with a status that means a passing fault; it would say it again however often it is asked."""
    return Unsupported(f"This Qdrant has no inference service, and computes nothing itself but BM25: {text}.")


def _settings_of(connection: Connection) -> tuple[str, str]:
    """Which settings hold the address and the key of a connection."""
    if connection.name == "default":
        return "QDRANT_URL", "QDRANT_API_KEY"
    return "QDRANT_MIGRATION_CONNECTIONS", "the variable that its 'key_variable' in QDRANT_MIGRATION_CONNECTIONS names"


def no_key(connection: Connection) -> AccessDenied:
    return AccessDenied(
        f"Qdrant (connection '{connection.name}') refused the key: it is missing or wrong. Set {_settings_of(connection)[1]} to a key that may manage collections."
    )


def from_status(error: UnexpectedResponse, connection: Connection) -> MigrationError:
    """Our error for an HTTP answer; nothing of the request is repeated."""
    text = _reason(error, connection)
    match error.status_code:
        case 400:
            return (
                BatchTooLarge(f"Qdrant refused the request as too large: {text}")
                if "larger than allowed" in text or "upsert limit" in text
                else RequestRejected(text)
            )
        case 401:
            return no_key(connection)
        case 403:
            return AccessDenied(f"The key lacks a right: {text}. A migration needs a key that may manage collections and aliases.")
        case 404:
            return NotFound(text) if text else Unsupported("This Qdrant does not know the call.")
        case 409:
            return AlreadyExists(text)
        case 413 | 429:
            return BatchTooLarge(f"Qdrant refused the size of the request: {text}")
        case 422:
            return RequestRejected(text)
        case 500 if _NO_INFERENCE in text:
            return no_inference(text)
        case _:
            return failing(str(error.status_code), text)


def from_embedded(error: Exception) -> MigrationError:
    """The embedded database raises ValueError for everything; its texts tell the cases apart."""
    text = _short(str(error.args[0] if error.args else error))
    if isinstance(error, NotImplementedError):
        return Unsupported(f"The embedded database cannot do this: {text}.")
    if "not found" in text:
        return NotFound(text)
    if "already exists" in text:
        return AlreadyExists(text)
    return RequestRejected(text)


def _reason(error: UnexpectedResponse, connection: Connection) -> str:
    try:
        status = error.structured().get("status")
    except (ValueError, AttributeError):
        return _short(error.content.decode("utf-8", "replace"), connection)
    return _short(str(status.get("error", "")) if isinstance(status, dict) else str(status), connection)


def _short(text: str, connection: Connection | None = None) -> str:
    # A proxy's page of an error may hold what it was sent: the key, and the address it was sent to.
    text = redacted(text[: MAX_MESSAGE * 20])
    if connection is not None and connection.url is not None:
        text = text.replace(connection.url, "(address)").replace(urlsplit(connection.url).netloc, "(address)")
    text = " ".join(text.split())
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"


@asynccontextmanager
async def opened(connection: Connection, *, patience_s: float, timeout_s: float) -> AsyncIterator[Caller]:
    """Open a connection; no request is made to a server yet.

    Raises:
        AlreadyExists: another process holds the embedded database.
    """
    caller = open_caller(connection, patience_s=patience_s, timeout_s=timeout_s)
    try:
        yield caller
    finally:
        await close_caller(caller)


def open_caller(connection: Connection, *, patience_s: float, timeout_s: float) -> Caller:
    """See `opened`; the owner closes it with `close_caller`."""
    if connection.is_embedded:
        assert connection.path is not None
        rest = _open_embedded(connection)
        return Caller(connection, rest, rest, patience_s=patience_s, timeout_s=timeout_s)
    key = connection.api_key.get_secret_value() if connection.api_key else None

    def client(prefer_grpc: bool) -> AsyncQdrantClient:
        with warnings.catch_warnings():
            # "Api key is used with an insecure connection": the person chose the address; `doctor` mentions it.
            warnings.simplefilter("ignore", UserWarning)
            return AsyncQdrantClient(
                url=connection.url,
                # An address without a port means the scheme's own behind a proxy, but 6333 is what everybody runs.
                grpc_port=connection.grpc_port,
                prefer_grpc=prefer_grpc,
                api_key=key,
                timeout=max(1, int(timeout_s)),
                # Left to the client: on this machine it opens a connection a request. With kept ones a pass over 20,000 points took four times
                # as long (16 s for 4 s, Qdrant 1.16.3).
                check_compatibility=False,
                # Not about the cloud: without it the client would embed a `Document` itself, after a download of its own.
                cloud_inference=True,
            )

    rest = client(prefer_grpc=False)
    fast = client(prefer_grpc=True) if connection.prefer_grpc else rest
    caller = Caller(connection, rest, fast, patience_s=patience_s, timeout_s=timeout_s)
    rest.http.client.add_middleware(caller.clock.note)
    return caller


def _open_embedded(connection: Connection) -> AsyncQdrantClient:
    assert connection.path is not None
    try:
        connection.path.mkdir(parents=True, exist_ok=True)
        return AsyncQdrantClient(path=str(connection.path))
    except RuntimeError as error:
        if "already accessed" not in str(error):
            raise
        raise AlreadyExists(
            f"The embedded database at {connection.path} is in use by another process, and it serves one at a time. "
            "Close the other host or command, or run a Qdrant server and set QDRANT_URL."
        ) from None
    except OSError as error:
        raise ConnectionFailed(
            f"The embedded database at {connection.path} cannot be opened: {error.strerror}. Set QDRANT_PATH to a folder that can be written."
        ) from None


async def close_caller(caller: Caller) -> None:
    await caller.rest.close()
    if caller.fast is not caller.rest:
        await caller.fast.close()

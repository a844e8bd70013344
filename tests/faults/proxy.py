"""What happens between a client and Qdrant when the network or the server fails? A proxy for REST and gRPC that makes it happen.

Each rule draws from a random generator of its own, by the number of the request that it matches, so that a run can be repeated. What was
done is counted: a test in which no fault struck shows nothing, and `assert_struck` fails it.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

import grpc
import h11
import httpx

from tests.servers import QdrantServer, free_ports

DISK_FULL = "Service internal error: No space left on device: WAL buffer size exceeds available disk space"
"""As 1.16.3 and 1.17.0 word it on a full file system, with status 500."""
HANG_S = 30.0


class Fault(StrEnum):
    """What is done to a request."""

    RESET = "connection reset in the middle of the request"
    LOST = "carried out, and the answer lost"
    TORN = "carried out, and the connection reset in the middle of the answer"
    LATE = "carried out, and the answer kept back until the client gives up"
    HANG = "not carried out, and no answer until the client gives up"
    DELAY = "answered late, but in time"
    BUSY = "429 with retry-after"
    TOO_LARGE = "429 without retry-after"
    BROKEN = "500"
    DISK_FULL = "500, the disk is full"
    AWAY = "503"
    FORBIDDEN = "403"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request: `GET`, `PUT`, … and the path with its query, or `gRPC` and the full name of the method."""

    method: str
    path: str
    body: bytes


@dataclass(kw_only=True)
class Rule:
    """Which requests meet a fault: by method and path, all or a share of them, after the first few, at most so often."""

    fault: Fault
    method: str = ""
    path: str = ""
    share: float = 1.0
    skip: int = 0
    most: int | None = None
    when: Callable[[Call], bool] | None = None
    retry_after: str = "1"
    seen: int = 0
    struck: int = 0

    def strikes(self, call: Call, rng: random.Random) -> bool:
        if self.method not in ("", call.method) or not re.search(self.path, call.path) or (self.when is not None and not self.when(call)):
            return False
        self.seen += 1
        drawn = rng.random()
        is_due = self.seen > self.skip and (self.most is None or self.struck < self.most) and drawn < self.share
        self.struck += is_due
        return is_due


@dataclass(frozen=True, kw_only=True)
class _Answer:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    is_torn: bool = False


_NOT_FORWARDED = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"host"})
_STATUS = {Fault.BUSY: 429, Fault.TOO_LARGE: 429, Fault.BROKEN: 500, Fault.DISK_FULL: 500, Fault.AWAY: 503, Fault.FORBIDDEN: 403}
_CODES = {
    Fault.RESET: grpc.StatusCode.UNAVAILABLE,
    Fault.LOST: grpc.StatusCode.UNAVAILABLE,
    Fault.TORN: grpc.StatusCode.UNAVAILABLE,
    Fault.LATE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Fault.HANG: grpc.StatusCode.DEADLINE_EXCEEDED,
    Fault.BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Fault.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Fault.BROKEN: grpc.StatusCode.INTERNAL,
    Fault.DISK_FULL: grpc.StatusCode.INTERNAL,
    Fault.AWAY: grpc.StatusCode.UNAVAILABLE,
    Fault.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
}
_SAID = {
    Fault.BUSY: "Rate limiting exceeded: Write rate limit exceeded, retry later",
    Fault.TOO_LARGE: "Rate limiting exceeded: Write rate limit exceeded, request larger than rate limiter capacity, please try to split your request",
    Fault.BROKEN: "Service internal error: something broke",
    Fault.DISK_FULL: DISK_FULL,
    Fault.AWAY: "upstream connect error",
    Fault.FORBIDDEN: "Forbidden: Global access is required",
}


@dataclass(kw_only=True)
class FaultProxy:
    """In front of one server, on free ports of the loopback address; in threads of its own."""

    server: QdrantServer
    seed: int = 0
    rules: list[Rule] = field(default_factory=list)
    delay_s: float = 0.3
    calls: Counter[str] = field(default_factory=Counter)
    """Requests that were forwarded, by `METHOD path` without the query."""

    def __post_init__(self) -> None:
        self.http_port, self.grpc_port = free_ports(2)
        self._lock = threading.Lock()
        self._rngs: dict[int, random.Random] = {}
        self._is_over = threading.Event()
        self._held: list[tuple[Rule, Callable[[], None]]] = []
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        return {"QDRANT_URL": f"http://127.0.0.1:{self.http_port}", "QDRANT_GRPC_PORT": str(self.grpc_port)}

    @property
    def struck(self) -> Counter[Fault]:
        """How often each fault was made."""
        with self._lock:
            found: Counter[Fault] = Counter()
            for rule in self.rules:
                found[rule.fault] += rule.struck
            return found

    def assert_struck(self, rules: Iterable[Rule] | None = None) -> None:
        """Every rule made its fault at least once."""
        idle = [rule for rule in (self.rules if rules is None else rules) if not rule.struck]
        assert not idle, f"never struck: {idle}; forwarded {self.calls.most_common(20)}"

    def before(self, method: str, path: str, act: Callable[[], None], *, skip: int = 0) -> Rule:
        """Have `act` happen right before the first request of the kind (after `skip` of them) is passed on; the rule that counts it."""
        rule = Rule(fault=Fault.DELAY, method=method, path=path, skip=skip, most=1)
        self._held.append((rule, act))
        self.rules.append(rule)
        return rule

    def __enter__(self) -> Self:
        options: Sequence[tuple[str, Any]] = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self.server.grpc_port}", options=options)
        self._grpc = grpc.server(ThreadPoolExecutor(16), handlers=[_Handler(self)], options=options)
        self._grpc.add_insecure_port(f"127.0.0.1:{self.grpc_port}")
        self._grpc.start()
        self._thread.start()
        assert self._is_ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._grpc.stop(0).wait(5)
        self._channel.close()
        self._thread.join(10)

    def _drawn(self, call: Call, *, has_body: bool = True) -> Rule | None:
        """The first rule that strikes. Over REST a connection is reset when the head has arrived and the body may still be on its way."""
        with self._lock:
            for number, rule in enumerate(self.rules):
                is_for_head = call.method != "gRPC" and rule.fault is Fault.RESET and rule.when is None
                if is_for_head is has_body:
                    continue
                rng = self._rngs.setdefault(id(rule), random.Random(f"{self.seed}-{number}"))
                if rule.strikes(call, rng):
                    return rule
            return None

    def _passed_on(self, call: Call) -> None:
        with self._lock:
            self.calls[f"{call.method} {call.path.partition('?')[0]}"] += 1

    def _act(self, rule: Rule | None) -> bool:
        acts = [act for held, act in self._held if held is rule]
        for act in acts:
            act()
        return bool(acts)

    # REST

    async def _serve(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        async with httpx.AsyncClient(
            base_url=self.server.url, timeout=60, trust_env=False, limits=httpx.Limits(max_connections=None)
        ) as client:

            def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.create_task(self._converse(reader, writer, client))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

            listening = await asyncio.start_server(connected, "127.0.0.1", self.http_port)
            self._is_ready.set()
            while not self._is_over.is_set():  # noqa: ASYNC110 - set by another thread
                await asyncio.sleep(0.05)
            listening.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: httpx.AsyncClient) -> None:
        """One connection: requests one after another, until a fault or the client ends it."""
        peer = h11.Connection(h11.SERVER)
        try:
            while (request := await self._request(peer, reader)) is not None:
                head, call = request
                answer = await self._answered(call, head, client, reader)
                if answer is None:
                    break
                headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode())]
                writer.write(peer.send(h11.Response(status_code=answer.status, headers=headers)) or b"")
                if answer.is_torn:
                    writer.write(peer.send(h11.Data(data=answer.body[: len(answer.body) // 2])) or b"")
                    await writer.drain()
                    break
                writer.write(peer.send(h11.Data(data=answer.body)) or b"")
                writer.write(peer.send(h11.EndOfMessage()) or b"")
                await writer.drain()
                if peer.our_state is not h11.DONE or peer.their_state is not h11.DONE:
                    break
                peer.start_next_cycle()
        except (OSError, h11.ProtocolError):
            pass  # the client went away
        finally:
            # Not closed in an orderly way: a reset.
            writer.transport.abort()

    async def _request(self, peer: h11.Connection, reader: asyncio.StreamReader) -> tuple[h11.Request, Call] | None:
        """The next request; None when the client closed the connection, or it is to be reset."""
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = peer.next_event()
            if event is h11.NEED_DATA:
                peer.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Request):
                head = event
                if self._drawn(Call(method=head.method.decode(), path=head.target.decode(), body=b""), has_body=False) is not None:
                    return None
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                return head, Call(method=head.method.decode(), path=head.target.decode(), body=bytes(body))
            else:
                return None

    async def _answered(self, call: Call, head: h11.Request, client: httpx.AsyncClient, reader: asyncio.StreamReader) -> _Answer | None:
        """What the client is answered; None for a connection that is reset."""
        rule = self._drawn(call)
        if await asyncio.to_thread(self._act, rule):
            return await self._forward(call, head, client)
        match rule.fault if rule is not None else None:
            case None:
                return await self._forward(call, head, client)
            case Fault.RESET:
                return None
            case Fault.LOST:
                await self._forward(call, head, client)
                return None
            case Fault.TORN:
                return replace(await self._forward(call, head, client), is_torn=True)
            case Fault.LATE | Fault.HANG as fault:
                if fault is Fault.LATE:
                    await self._forward(call, head, client)
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), HANG_S)
                return None
            case Fault.DELAY:
                await asyncio.sleep(self.delay_s)
                return await self._forward(call, head, client)
            case fault:
                assert rule is not None
                said = json.dumps({"status": {"error": _SAID[fault]}, "time": 0.0}).encode()
                headers = [(b"content-type", b"application/json")]
                if fault is Fault.BUSY:
                    headers.append((b"retry-after", rule.retry_after.encode()))
                return _Answer(status=_STATUS[fault], headers=headers, body=said)

    async def _forward(self, call: Call, head: h11.Request, client: httpx.AsyncClient) -> _Answer:
        self._passed_on(call)
        headers = [(k, v) for k, v in head.headers if k not in _NOT_FORWARDED]
        try:
            async with client.stream(call.method, call.path, headers=headers, content=call.body) as answer:
                body = b"".join([part async for part in answer.aiter_raw()])
                kept = [(k.lower(), v) for k, v in answer.headers.raw if k.lower() not in _NOT_FORWARDED]
                return _Answer(status=answer.status_code, headers=kept, body=body)
        except httpx.TransportError:
            return _Answer(status=503, headers=[], body=b"the server does not answer")

    # gRPC

    def _called(self, method: str, body: bytes, context: grpc.ServicerContext) -> bytes:
        call = Call(method="gRPC", path=method, body=body)
        rule = self._drawn(call)
        fault = None if rule is None or self._act(rule) else rule.fault
        answer = b""
        if fault is Fault.DELAY:
            time.sleep(self.delay_s)
        if fault in (None, Fault.DELAY, Fault.LOST, Fault.TORN, Fault.LATE):
            self._passed_on(call)
            metadata = tuple((k, v) for k, v in context.invocation_metadata() if not k.startswith(("grpc-", "user-agent", ":")))
            send: Any = self._channel.unary_unary(method)
            try:
                answer = send(body, timeout=context.time_remaining(), metadata=metadata)
            except grpc.RpcError as error:
                # What the stubs of grpcio do not say: it is a call as well.
                failed: Any = error
                context.set_trailing_metadata(tuple((k, v) for k, v in failed.trailing_metadata() or () if k == "retry-after"))
                context.abort(failed.code(), failed.details() or "")
        if fault in (None, Fault.DELAY):
            return answer
        assert fault is not None
        if fault in (Fault.HANG, Fault.LATE):
            remaining = context.time_remaining()
            self._is_over.wait(min(HANG_S, (remaining or HANG_S) + 0.5))
        if fault is Fault.BUSY and rule is not None:
            context.set_trailing_metadata((("retry-after", rule.retry_after),))
        context.abort(_CODES[fault], _SAID.get(fault, "recvmsg:Connection reset by peer"))
        raise AssertionError("abort raises")


class _Handler(grpc.GenericRpcHandler):
    """Every method, its messages as bytes."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        method = details.method
        return grpc.unary_unary_rpc_method_handler(lambda body, context: self._proxy._called(method, body, context))

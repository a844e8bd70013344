"""What does a call say, and how often does it try, when Qdrant or the network fails it?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import BatchTooLarge, ConnectionFailed, MigrationError, RateLimited
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.qdrant.gateway import Gateway
from tests.faults.apps import Collection
from tests.faults.proxy import Fault, FaultProxy, Rule
from tests.servers import QdrantServer

PATIENCE_S = 1.0
LONG_PATIENCE_S = 10.0
"""For a fault that passes: a request may take 1 s before it is given up, and more on a busy machine."""
MOST_TRIES = 8
"""Waits begin at 0.2 s and grow: more do not fit into the patience."""

ANSWERS: dict[Fault, tuple[type[MigrationError], str, str]] = {
    Fault.RESET: (ConnectionFailed, r"does not answer \((ReadError|RemoteProtocolError|WriteError)\)", r"does not answer \(UNAVAILABLE\)"),
    Fault.LOST: (ConnectionFailed, r"does not answer \((ReadError|RemoteProtocolError)\)", r"does not answer \(UNAVAILABLE\)"),
    Fault.TORN: (ConnectionFailed, r"does not answer \((ReadError|RemoteProtocolError)\)", r"does not answer \(UNAVAILABLE\)"),
    Fault.LATE: (ConnectionFailed, r"does not answer \(ReadTimeout\)", r"does not answer \(DEADLINE_EXCEEDED\)"),
    Fault.HANG: (ConnectionFailed, r"does not answer \(ReadTimeout\)", r"does not answer \(DEADLINE_EXCEEDED\)"),
    Fault.BUSY: (RateLimited, r"asks to wait 1 s\. Lower points_per_second", r"asks to wait 1 s\. Lower points_per_second"),
    Fault.TOO_LARGE: (BatchTooLarge, r"please try to split your request", r"please try to split your request"),
    Fault.BROKEN: (
        ConnectionFailed,
        r"status 500: .*something broke\. Its log tells",
        r"status INTERNAL: .*something broke\. Its log tells",
    ),
    Fault.DISK_FULL: (
        ConnectionFailed,
        r"The disk of Qdrant is full: .*Free or add space",
        r"The disk of Qdrant is full: .*Free or add space",
    ),
    Fault.AWAY: (ConnectionFailed, r"status 503: upstream connect error", r"does not answer \(UNAVAILABLE\)"),
}


@asynccontextmanager
async def behind(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, *, prefer_grpc: bool = False, patience_s: float = PATIENCE_S
) -> AsyncIterator[Gateway]:
    """A gateway whose requests go through the proxy."""
    for variable, value in {
        **proxy.environment,
        "QDRANT_PREFER_GRPC": str(prefer_grpc).lower(),
        "QDRANT_MIGRATION_LEASE_SECONDS": "2",
    }.items():
        monkeypatch.setenv(variable, value)
    async with OperationContext(read_settings(), patience_s=patience_s) as context:
        yield await context.gateway()


def upserts(fault: Fault, name: str, *, prefer_grpc: bool = False, **more: object) -> Rule:
    where = {"method": "gRPC", "path": "/Upsert$"} if prefer_grpc else {"method": "PUT", "path": f"/{name}/points"}
    return Rule(fault=fault, **where, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("prefer_grpc", [False, True], ids=["REST", "gRPC"])
@pytest.mark.parametrize("fault", list(ANSWERS), ids=lambda f: f.name)
async def test_a_fault_that_stays_is_told_for_what_it_is_after_bounded_tries(
    server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch, fault: Fault, *, prefer_grpc: bool
) -> None:
    Collection(server_1_17, name).call("PUT", "", {"vectors": {}})
    kind, over_rest, over_grpc = ANSWERS[fault]
    rule = upserts(fault, name, prefer_grpc=prefer_grpc)
    with FaultProxy(server=server_1_17, rules=[rule]) as proxy:
        async with behind(proxy, monkeypatch, prefer_grpc=prefer_grpc) as gateway:
            with pytest.raises(kind, match=over_grpc if prefer_grpc else over_rest) as raised:
                await gateway.points.write(name, [Point(id=1, payload={})])
    assert type(raised.value) is kind
    assert "127.0.0.1" not in str(raised.value)
    if fault is Fault.TOO_LARGE:
        assert rule.struck == 1, "what can never pass was sent again"
    else:
        assert 1 <= rule.struck <= MOST_TRIES


@pytest.mark.parametrize("prefer_grpc", [False, True], ids=["REST", "gRPC"])
@pytest.mark.parametrize("fault", [Fault.LOST, Fault.LATE, Fault.BUSY], ids=lambda f: f.name)
async def test_a_fault_that_passes_costs_the_write_nothing(
    server_1_16: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch, fault: Fault, *, prefer_grpc: bool
) -> None:
    collection = Collection(server_1_16, name)
    collection.call("PUT", "", {"vectors": {}})
    rule = upserts(fault, name, prefer_grpc=prefer_grpc, most=1)
    with FaultProxy(server=server_1_16, rules=[rule]) as proxy:
        async with behind(proxy, monkeypatch, prefer_grpc=prefer_grpc, patience_s=LONG_PATIENCE_S) as gateway:
            await gateway.points.insert(name, [Point(id=1, payload={"a": 1})])
    proxy.assert_struck()
    assert collection.points()[1]["payload"] == {"a": 1}


@pytest.mark.parametrize("prefer_grpc", [False, True], ids=["REST", "gRPC"])
async def test_a_wait_longer_than_the_patience_is_told_at_once_and_not_waited(
    server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch, *, prefer_grpc: bool
) -> None:
    """A call has 40 s for its answer; what is rate-limited may ask for a minute."""
    Collection(server_1_17, name).call("PUT", "", {"vectors": {}})
    rule = upserts(Fault.BUSY, name, prefer_grpc=prefer_grpc, retry_after="61")
    with FaultProxy(server=server_1_17, rules=[rule]) as proxy:
        async with behind(proxy, monkeypatch, prefer_grpc=prefer_grpc) as gateway:
            with pytest.raises(RateLimited, match="asks to wait 61 s") as raised:
                await gateway.points.write(name, [Point(id=1, payload={})])
    assert (rule.struck, raised.value.retry_after_s) == (1, 61.0)


async def test_a_retry_after_that_is_a_date_is_waited_for_as_any_other_fault(
    server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP allows it, and qdrant-client fails over it with an exception of its own."""
    collection = Collection(server_1_17, name)
    collection.call("PUT", "", {"vectors": {}})
    rule = upserts(Fault.BUSY, name, retry_after="Wed, 21 Oct 2026 07:28:00 GMT", most=1)
    with FaultProxy(server=server_1_17, rules=[rule]) as proxy:
        async with behind(proxy, monkeypatch, patience_s=LONG_PATIENCE_S) as gateway:
            await gateway.points.write(name, [Point(id=1, payload={})])
        rule.most = None
        async with behind(proxy, monkeypatch) as gateway:
            with pytest.raises(RateLimited, match=r"asks to slow down \(429\)"):
                await gateway.points.write(name, [Point(id=2, payload={})])
    assert set(collection.points()) == {1}

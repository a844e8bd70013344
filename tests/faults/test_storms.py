"""Does a whole migration come through when requests fail in every way that a network and a server know?"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.apps import App, differences
from tests.faults.proxy import Call, Fault, FaultProxy, Rule
from tests.faults.scene import scene
from tests.servers import QdrantServer

POINTS = 400
MOST_POINTS = 20
"""In one write to the target; a larger one can never pass."""


def of_upsert(call: Call, collection: str) -> int:
    """Points in a write to the collection; 0 for another request."""
    if call.method == "PUT" and call.path.startswith(f"/collections/{collection}/points?"):
        return len(json.loads(call.body)["points"])
    return call.body.count(b"\n\x04text") if call.path.endswith("/Upsert") and collection.encode() in call.body else 0


def storm(name: str, upserts: str, too_large: Counter[bytes]) -> list[Rule]:
    """Each fault at the writes where it hurts most, and now and then anywhere."""
    target, ledger, alias = f"{name}-new", f"{name}-ledger", f'"{name}-alias"'.encode()

    def is_too_large(call: Call) -> bool:
        is_larger = of_upsert(call, target) > MOST_POINTS
        if is_larger:
            too_large[call.body] += 1
        return is_larger

    def writes_target(call: Call) -> bool:
        return of_upsert(call, target) > 0

    def swaps(call: Call) -> bool:
        return alias in call.body

    return [
        Rule(fault=Fault.LOST, method="PUT", path=f"/{target}$", most=1),
        Rule(fault=Fault.LOST, method="PUT", path=f"/{ledger}$", most=1),
        Rule(fault=Fault.LOST, method="PUT", path=f"/{ledger}/points", most=4, share=0.5),
        Rule(fault=Fault.TORN, method="PUT", path=f"/{ledger}/points", most=2, share=0.2),
        Rule(fault=Fault.LATE, method="PUT", path=f"/{ledger}/points", most=1, skip=30),
        Rule(fault=Fault.AWAY, method="POST", path="/collections/aliases", when=swaps, most=1),
        Rule(fault=Fault.LOST, method="POST", path="/collections/aliases", when=swaps, most=1),
        Rule(fault=Fault.TOO_LARGE, path=upserts, when=is_too_large),
        Rule(fault=Fault.BUSY, path=upserts, when=writes_target, most=2),
        Rule(fault=Fault.LOST, path=upserts, when=writes_target, most=2, skip=2),
        Rule(fault=Fault.LATE, path=upserts, when=writes_target, most=1, skip=4),
        Rule(fault=Fault.HANG, path=upserts, when=writes_target, most=1, skip=6),
        Rule(fault=Fault.BROKEN, path=upserts, when=writes_target, most=2, skip=8),
        Rule(fault=Fault.RESET, share=0.05, most=12),
        Rule(fault=Fault.AWAY, share=0.03, most=8),
        Rule(fault=Fault.BROKEN, share=0.03, most=8),
        Rule(fault=Fault.DELAY, share=0.1, most=20),
    ]


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.only(where=lambda p: (p["server"], p["transport"]) in (("1.16.3", "gRPC"), ("1.17.0", "REST")))
@pytest.mark.parametrize("transport", ["REST", "gRPC"])
async def test_a_whole_migration_through_a_storm_of_faults_loses_nothing(
    server: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """Every request of every call and of the worker goes through the storm; the app and the oracle do not."""
    too_large: Counter[bytes] = Counter()
    rules = storm(name, "/Upsert$" if transport == "gRPC" else f"/{name}-new/points", too_large)
    with FaultProxy(server=server, seed=11, rules=rules) as proxy:
        variables = {**proxy.environment, "QDRANT_PREFER_GRPC": str(transport == "gRPC").lower()}
        async with scene(server, name, home, monkeypatch, points=POINTS, environment=variables) as at:
            with App(at.source, seed=12, per_second=20, ids=at.ids) as app:
                await at.start()
                await at.until_phase("backfilled")
                await at.verify_and_repair()
            # What was written last is carried over by the swap itself.
            outcome = await at.swap()
            assert (outcome.previous, outcome.current) == (at.source.name, at.target.name)
            assert at.where()[at.alias] == at.target.name
            migration = await at.migration()
            assert (migration.phase.value, migration.error, migration.intent) == ("cut_over", None, None)
    proxy.assert_struck()
    assert set(proxy.struck) >= set(Fault) - {Fault.DISK_FULL, Fault.FORBIDDEN}
    assert too_large
    assert set(too_large.values()) == {1}, "a write that can never pass was sent again"
    assert app.failures == []
    assert app.writes > 50
    assert differences(at.source, at.target) == []

"""Does the proxy of the fault tests do to a request what it says?"""

from __future__ import annotations

import grpc
import pytest
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from qdrant_client.models import PointStruct

from tests.faults.apps import Collection
from tests.faults.proxy import Fault, FaultProxy, Rule
from tests.servers import QdrantServer, request

REST_ERRORS = {
    Fault.RESET: ResponseHandlingException,
    Fault.LOST: ResponseHandlingException,
    Fault.TORN: ResponseHandlingException,
    Fault.LATE: ResponseHandlingException,
    Fault.HANG: ResponseHandlingException,
    Fault.BUSY: ResourceExhaustedResponse,
    Fault.TOO_LARGE: UnexpectedResponse,
    Fault.BROKEN: UnexpectedResponse,
    Fault.DISK_FULL: UnexpectedResponse,
    Fault.AWAY: UnexpectedResponse,
    Fault.FORBIDDEN: UnexpectedResponse,
}
CARRIED_OUT = {Fault.LOST, Fault.TORN, Fault.LATE, Fault.DELAY}


@pytest.mark.parametrize("prefer_grpc", [False, True], ids=["REST", "gRPC"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda f: f.name)
def test_a_request_meets_its_fault_and_is_carried_out_or_not_as_the_fault_says(
    server_1_17: QdrantServer, name: str, fault: Fault, *, prefer_grpc: bool
) -> None:
    collection = Collection(server_1_17, name)
    collection.call("PUT", "", {"vectors": {}})
    rule = Rule(fault=fault, path="Upsert$" if prefer_grpc else f"/{name}/points", method="gRPC" if prefer_grpc else "PUT", skip=1, most=1)
    with FaultProxy(server=server_1_17, rules=[rule]) as proxy:
        client = QdrantClient(
            url=proxy.environment["QDRANT_URL"], grpc_port=proxy.grpc_port, prefer_grpc=prefer_grpc, timeout=1, check_compatibility=False
        )
        try:
            client.upsert(name, [PointStruct(id=1, vector={})], wait=True)
            if fault is Fault.DELAY:
                client.upsert(name, [PointStruct(id=2, vector={})], wait=True)
            else:
                error = REST_ERRORS[fault]
                if prefer_grpc:
                    error = ResourceExhaustedResponse if fault is Fault.BUSY else grpc.RpcError
                with pytest.raises(error):
                    client.upsert(name, [PointStruct(id=2, vector={})], wait=True)
            client.upsert(name, [PointStruct(id=3, vector={})], wait=True)
        finally:
            client.close()
    proxy.assert_struck()
    assert set(collection.points()) == {1, 3} | ({2} if fault in CARRIED_OUT else set())


def test_what_strikes_follows_from_the_seed_and_a_run_without_a_fault_fails(server_1_17: QdrantServer) -> None:
    def struck(seed: int) -> list[int]:
        rule = Rule(fault=Fault.AWAY, path="readyz", share=0.3)
        found: list[int] = []
        with FaultProxy(server=server_1_17, seed=seed, rules=[rule]) as proxy:
            for number in range(30):
                try:
                    request(f"{proxy.environment['QDRANT_URL']}/readyz")
                except OSError:
                    found.append(number)
        assert rule.struck == len(found)
        return found

    assert 3 < len(struck(1)) < 20
    assert struck(1) == struck(1) != struck(2)
    with (
        FaultProxy(server=server_1_17, rules=[Rule(fault=Fault.AWAY, path="nothing")]) as idle,
        pytest.raises(AssertionError, match="never struck"),
    ):
        idle.assert_struck()

"""Where do the tests get a Qdrant cluster from? Peers of one version on the loopback address, each a server process of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.servers import QdrantServer, free_ports, request

_MEET_TIMEOUT_S = 60.0


class QdrantCluster:
    """Some peers that know each other. Storage and ports of each outlive its `stop` and `kill`: `start` goes on with both.

    `folder` must be empty and is not deleted here.
    """

    def __init__(self, version: str, folder: Path, *, peers: int = 2) -> None:
        self.version = version
        self.folder = folder
        self.peers: Sequence[QdrantServer] = [QdrantServer(version, folder / f"peer-{n}") for n in range(peers)]

    @property
    def first(self) -> QdrantServer:
        return self.peers[0]

    def peer_id(self, peer: QdrantServer) -> int:
        """Of a peer that runs."""
        return int(self.status(peer)["peer_id"])

    def start(self) -> None:
        """Start the peers one after another; returns when every one of them sees all others and agrees on a leader.

        Raises:
            RuntimeError: a peer did not start, or they did not meet within a minute.
        """
        ports = free_ports(len(self.peers))
        for peer, port in zip(self.peers, ports, strict=True):
            peer.settings |= {"QDRANT__CLUSTER__ENABLED": "true", "QDRANT__CLUSTER__P2P__PORT": str(port)}
            peer.arguments = ["--uri", f"http://127.0.0.1:{port}"]
            if peer is not self.first:
                peer.arguments += ["--bootstrap", f"http://127.0.0.1:{ports[0]}"]
            peer.start()
        self.wait_until_met()

    def stop(self) -> None:
        """End every peer, the last first."""
        for peer in reversed(self.peers):
            peer.stop()

    def discard(self) -> None:
        """Delete what the peers stored; their logs stay."""
        for peer in self.peers:
            peer.discard()

    def wait_until_met(self) -> None:
        """Return when every peer lists every peer, knows the leader and has nothing left to apply.

        Raises:
            RuntimeError: not within a minute.
        """
        deadline = time.monotonic() + _MEET_TIMEOUT_S
        while time.monotonic() < deadline:
            if all(self._has_met(peer) for peer in self.peers):
                return
            time.sleep(0.05)
        raise RuntimeError(f"{len(self.peers)} peers of Qdrant {self.version} did not meet: {[self.status(p) for p in self.peers]}")

    def status(self, peer: QdrantServer) -> dict[str, Any]:
        """What a peer says of its cluster; {} while it does not answer."""
        try:
            found = request(f"{peer.url}/cluster", timeout_s=5)["result"]
        except OSError:
            return {}
        assert isinstance(found, dict)
        return found

    def _has_met(self, peer: QdrantServer) -> bool:
        status = self.status(peer)
        raft = status.get("raft_info") or {}
        return len(status.get("peers") or {}) == len(self.peers) and bool(raft.get("leader")) and not raft.get("pending_operations")

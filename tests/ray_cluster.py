"""A real Ray cluster on loopback: a head and further raylets, each a node with its own cores; any of them can be killed.

It runs in a process of its own, so that nothing of Ray is left in the test's; the raylets inherit the environment that it is started with.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType

STORE_BYTES = 80_000_000
"""Next to nothing of ours goes through Ray's object store."""


class RayCluster:
    """`nodes` raylets of `cpus` cores each, beside a head without any, which is where drivers connect."""

    def __init__(self, nodes: int, environment: Mapping[str, str], *, cpus: int = 1) -> None:
        self._arguments = [sys.executable, "-m", "tests.ray_cluster", str(nodes), str(cpus)]
        self._environment = {**os.environ, **environment, "RAY_USAGE_STATS_ENABLED": "0"}
        self._process: subprocess.Popen[str] | None = None
        self.address = ""

    def __enter__(self) -> RayCluster:
        self._process = subprocess.Popen(
            self._arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=self._environment
        )
        self.address = self._told("address")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        finally:
            self._process.kill()
            self._process.wait(10)
            self._process.stdout.close()

    def kill(self, node: int) -> None:
        """Kill a raylet with all that runs on its node."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"kill {node}\n")
        self._process.stdin.flush()
        assert self._told("killed") == str(node)

    def _told(self, what: str) -> str:
        """What the process says of something; whatever Ray itself prints is passed over."""
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(f"{what}: "):
                return line.removeprefix(f"{what}: ").strip()
        raise AssertionError(f"the cluster ended with exit code {self._process.wait(10)}")


def main() -> None:
    """Run a cluster until standard input ends."""
    from ray.cluster_utils import Cluster

    count, cpus = map(int, sys.argv[1:])
    store = {"object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **store})
    nodes = [cluster.add_node(num_cpus=cpus, **store) for _ in range(count)]
    cluster.wait_for_nodes()
    print(f"address: {cluster.address}", flush=True)
    for line in sys.stdin:
        number = int(line.removeprefix("kill "))
        cluster.remove_node(nodes[number], allow_graceful=False)
        print(f"killed: {number}", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()

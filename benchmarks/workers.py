"""What does a real worker process take: memory, a kill, a ceiling, many actors? Against a real Qdrant 1.17.0 on this machine.

`python -m benchmarks.workers` writes benchmarks/results/workers.json and .md; `--only memory` runs one part. Each figure is a ratio of two runs
that follow one another, so that what else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from benchmarks import peers, place
from benchmarks.machine import load_before, machine
from benchmarks.texts import ASSETS, mixed_texts, short_texts
from benchmarks.worked import created, steady_rate, until_written, worked, worker_of
from qdrant_model_migration.environment import child_environment
from tests.openai_server import Answer, OpenAIServer
from tests.ray_cluster import RayCluster
from tests.servers import QdrantServer

RESULTS = Path(__file__).parent / "results"
FREE = "builtin:hashing-384"
SLEEP_S = 1.0
"""Of the embedder that sleeps instead of computing, for each request of 64 texts: eight actors together then leave the two cores some time."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One row: what was measured, against what, and what is to be reached."""

    what: str
    against: str
    value: float
    bound: str
    is_met: bool
    detail: str


def memory(running: QdrantServer, points: int, documents: int) -> list[Finding]:
    """The same backfill with ten times the points; and the peak with MiniLM."""
    texts = short_texts(points)
    place.fill_source(running, texts[: points // 10], name="small")
    place.fill_source(running, texts, name="large")
    small, large = worked("small", FREE), worked("large", FREE)
    found = [
        Finding(
            what=f"peak memory of a worker, {points:,} points",
            against=f"the same with {points // 10:,} points",
            value=large.peak_mb / small.peak_mb,
            bound="<= 1.10x",
            is_met=large.peak_mb <= 1.10 * small.peak_mb,
            detail=f"{large.peak_mb:.0f} MB and {small.peak_mb:.0f} MB",
        )
    ]
    if ASSETS.is_dir():
        os.environ["QDRANT_MIGRATION_MODELS"] = json.dumps(peers.MINILM)
        place.fill_source(running, mixed_texts(documents), name="prose")
        prose = worked("prose", "minilm")
        found.append(
            Finding(
                what=f"peak memory of a worker with MiniLM, {documents:,} paragraphs",
                against="1 GB",
                value=prose.peak_mb / 1000,
                bound="< 1x",
                is_met=prose.peak_mb < 1000,
                detail=f"{prose.peak_mb:.0f} MB",
            )
        )
    return found


def resume(running: QdrantServer, points: int, rounds: int) -> list[Finding]:
    """A worker that is killed half-way and the one that goes on, against one that is not killed. The start of the second is given beside it."""
    place.fill_source(running, short_texts(points), name="killed")
    lost, starts, wholes = [], [], []
    for _ in range(rounds):
        whole, cut = worked("killed", FREE), worked("killed", FREE, kill_at=0.5)
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import qdrant_client, qdrant_model_migration.worker.driver"], check=True)
        start = time.perf_counter() - began
        starts.append(start)
        wholes.append(whole.seconds)
        lost.append((cut.seconds - whole.seconds - start) / whole.seconds)
    median = statistics.median(lost)
    return [
        Finding(
            what=f"time lost to kill -9 and a new worker half-way, {points:,} points",
            against="an uninterrupted run",
            value=median,
            bound="<= 5 % + start-up",
            is_met=median <= 0.05,
            detail=f"of {statistics.median(wholes):.1f} s, beside a start of {statistics.median(starts):.1f} s; {rounds} rounds, {min(lost):+.1%} to {max(lost):+.1%}",
        )
    ]


def ray(running: QdrantServer, points: int, documents: int, rounds: int) -> list[Finding]:
    """Eight actors against one, with an embedder that sleeps; two actors against the local executor, with one that computes."""
    found: list[Finding] = []
    with OpenAIServer(64) as provider:
        provider.always = Answer(delay_s=SLEEP_S)
        entry = {"provider": "openai", "model": "m", "base_url": provider.base_url, "dimensions": 64, "batch_size": 64}
        os.environ["QDRANT_MIGRATION_MODELS"] = json.dumps({"asleep": entry})
        place.fill_source(running, short_texts(points, characters=40), name="asleep")
        rates: dict[int, list[float]] = {1: [], 8: []}
        with RayCluster(8, child_environment()) as cluster:
            os.environ["QDRANT_MIGRATION_RAY_ADDRESS"] = cluster.address
            for _ in range(rounds):
                for actors, seen in rates.items():
                    os.environ["QDRANT_MIGRATION_RAY_ACTORS"] = str(actors)
                    seen.append(steady_rate("asleep", "asleep"))
        ratio = statistics.median(rates[8]) / statistics.median(rates[1])
        found.append(
            Finding(
                what="Ray, 8 actors with an embedder that sleeps, points/s",
                against="one such actor",
                value=ratio,
                bound=">= 6.8x",
                is_met=ratio >= 6.8,
                detail=f"{statistics.median(rates[8]):.0f} and {statistics.median(rates[1]):.0f} points/s, while all actors have work",
            )
        )
    if ASSETS.is_dir():
        os.environ["QDRANT_MIGRATION_MODELS"] = json.dumps(peers.MINILM)
        os.environ["QDRANT_MIGRATION_RAY_ACTORS"] = "2"
        place.fill_source(running, mixed_texts(documents), name="computed")
        with RayCluster(2, child_environment()) as cluster:
            os.environ["QDRANT_MIGRATION_RAY_ADDRESS"] = cluster.address
            pairs = [(steady_rate("computed", "minilm"), steady_rate("computed", "minilm", executor="local")) for _ in range(rounds)]
        ratio = statistics.median(a / b for a, b in pairs)
        found.append(
            Finding(
                what="Ray, 2 actors on 2 cores with MiniLM, documents/s",
                against="the local executor",
                value=ratio,
                bound=">= 0.85x",
                is_met=ratio >= 0.85,
                detail=f"{statistics.median(a for a, _ in pairs):.0f} and {statistics.median(b for _, b in pairs):.0f} documents/s",
            )
        )
    os.environ.pop("QDRANT_MIGRATION_RAY_ACTORS", None)
    return found


def ceiling(running: QdrantServer, points: int) -> list[Finding]:
    """The latency of an app's searches while a backfill runs under a ceiling, and without one."""
    place.fill_source(running, short_texts(points), name="searched")
    quiet = _searched(running, seconds=8.0)
    free = anyio.run(_searched_while, running, {})
    # Between the two: less than what a backfill does to the searches when it is let, and not less than they take anyway.
    most_ms = max(1.1 * quiet, (quiet + free) / 2)
    held = anyio.run(_searched_while, running, {"max_source_latency_ms": most_ms})
    return [
        Finding(
            what="p95 of the source's searches under a ceiling",
            against=f"the ceiling of {most_ms:.0f} ms",
            value=held / most_ms,
            bound="<= 1.2x",
            is_met=held <= 1.2 * most_ms,
            detail=f"{held:.1f} ms; without a ceiling {free:.1f} ms, without a backfill {quiet:.1f} ms",
        )
    ]


async def _searched_while(running: QdrantServer, pace: dict[str, Any]) -> float:
    migration_id, target = await created("searched", FREE, **pace)
    worker = worker_of(migration_id)
    await until_written(target, 1, worker)
    p95 = await anyio.to_thread.run_sync(lambda: _searched(running, seconds=8.0))
    worker.kill()
    await anyio.to_thread.run_sync(worker.wait)
    async with place.context() as at:
        await (await at.gateway()).delete_collection(target)
    return p95


def _searched(running: QdrantServer, *, seconds: float) -> float:
    """The 95th percentile of an app's searches, in ms, as the app sees them."""
    speaker, rng, took = place.client(running, grpc=True), np.random.default_rng(7), []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        vector = rng.standard_normal(place.OLD_SIZE).tolist()
        began = time.perf_counter()
        speaker.query_points("searched", query=vector, limit=10)
        took.append(1000 * (time.perf_counter() - began))
        time.sleep(0.02)
    speaker.close()
    return float(np.percentile(took, 95))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of what is measured several times")
    parser.add_argument("--points", type=int, default=50_000, help="points, where embedding is free")
    parser.add_argument("--documents", type=int, default=1200, help="documents embedded with MiniLM")
    parser.add_argument("--only", choices=["memory", "resume", "ray", "ceiling"], action="append", help="this part alone; may be repeated")
    asked = parser.parse_args(argv)
    found: dict[str, Any] = {
        "machine": machine("qdrant-client", "fastembed", "onnxruntime", "ray"),
        "load_average_before": load_before(),
        "rounds": asked.rounds,
        "findings": [],
    }
    with place.server() as running:
        parts: dict[str, Callable[[], list[Finding]]] = {
            "memory": lambda: memory(running, asked.points, asked.documents),
            "resume": lambda: resume(running, asked.points, asked.rounds),
            "ceiling": lambda: ceiling(running, asked.points),
            "ray": lambda: ray(running, 16_000, 2 * asked.documents, asked.rounds),
        }
        for name in asked.only or parts:
            for finding in parts[name]():
                sys.stderr.write(f"{finding}\n")
                found["findings"].append(finding.__dict__)
    RESULTS.mkdir(exist_ok=True)
    name = "workers" if not asked.only else "workers-" + "-".join(asked.only)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    text = markdown(found)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def markdown(found: dict[str, Any]) -> str:
    """The results as a table, with the machine's description."""
    lines = ["# Workers", "", "| what | against | measured | to be reached | |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {of['what']} | {of['against']} | {of['value']:.2f} ({of['detail']}) | {of['bound']} | {'yes' if of['is_met'] else 'no'} |"
        for of in found["findings"]
    ]
    described = "; ".join(f"{name} {value}" for name, value in found["machine"].items())
    lines += [
        "",
        f"Medians of {found['rounds']} rounds where there are several. Qdrant 1.17.0 on the same machine: {described}. Load average before: {found['load_average_before']}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

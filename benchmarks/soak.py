"""Does a backfill keep its pace and its memory as the collection grows, to a million points and more? A worker process against a real Qdrant 1.17.0.

`python -m benchmarks.soak` writes benchmarks/results/soak.json, .md and .svg. The embedder is free, so what is measured is everything else. The
worker of the largest collection is killed half-way and another one goes on. The source has no index: building one would take the processor
from what is measured, and differently at each size.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio

from benchmarks import place
from benchmarks.machine import load_before, machine
from benchmarks.texts import short_texts
from benchmarks.worked import created, ended, until_phase, until_written, worker_of
from qdrant_model_migration.domain.markup import Markup, element
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.operations.requests import carry_out
from qdrant_model_migration.results import Verification
from tests.servers import QdrantServer

RESULTS = Path(__file__).parent / "results"
MODEL = "builtin:hashing-384"
SETTLE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Soaked:
    """One collection: seconds until every point was written and until the passes behind it ended, a verification, the most memory of a worker."""

    points: int
    filled_s: float
    backfilled_s: float
    verified_s: float
    peak_mb: float
    resumed_s: float | None
    """From the kill to the first point more, of which the start of a process is a part. None where nothing was killed."""

    @property
    def points_per_second(self) -> float:
        """Until every point was written, without what the kill took."""
        return self.points / (self.filled_s - (self.resumed_s or 0.0))


async def soaked(collection: str, points: int, *, is_killed: bool) -> Soaked:
    """Work one migration by worker processes, and verify its target. It is deleted afterwards."""
    migration_id, target = await created(collection, MODEL)
    began = time.perf_counter()
    worker, peak_mb, resumed_s = worker_of(migration_id), 0.0, None
    if is_killed:
        await until_written(target, points // 2, worker)
        worker, peak_mb, resumed_s = await _replaced(worker, migration_id, target)
    await until_written(target, points, worker, every_s=0.2)
    filled_s = time.perf_counter() - began
    await until_phase(migration_id, Phase.BACKFILLED)
    backfilled_s = time.perf_counter() - began
    verified_s = await _verified(migration_id)
    worker.send_signal(signal.SIGTERM)
    peak_mb = max(peak_mb, await anyio.to_thread.run_sync(ended, worker))
    async with place.context() as at:
        await (await at.gateway()).delete_collection(target)
    return Soaked(points=points, filled_s=filled_s, backfilled_s=backfilled_s, verified_s=verified_s, peak_mb=peak_mb, resumed_s=resumed_s)


async def _replaced(worker: subprocess.Popen[bytes], migration_id: str, target: str) -> tuple[subprocess.Popen[bytes], float, float]:
    """Kill a worker and start another; the first one's peak, and the seconds until a point more is written."""
    worker.send_signal(signal.SIGKILL)
    killed_at, peak_mb = time.perf_counter(), await anyio.to_thread.run_sync(ended, worker)
    async with place.context() as at:
        there = await (await at.gateway()).points.count(target)
    worker = worker_of(migration_id)
    await until_written(target, there + 1, worker)
    return worker, peak_mb, time.perf_counter() - killed_at


async def _verified(migration_id: str) -> float:
    """Seconds of a verification by the worker, without provenance, which must find the target complete."""
    async with place.context() as at:
        migration = await (await at.ledger()).migration(migration_id)
        began = time.perf_counter()
        done = await carry_out(at, migration, "verify", {"provenance_sample": 0}, key=uuid.uuid4().hex, wait_s=3600.0)
        seconds = time.perf_counter() - began
        found = Verification.model_validate(done.result)
        assert found.is_complete, found
        return seconds


def _texts(points: int) -> Iterator[str]:
    """Not all at once: a million are half a gigabyte."""
    for start in range(0, points, 10_000):
        yield from short_texts(min(10_000, points - start), seed=start)


def measured(running: QdrantServer, sizes: Sequence[int]) -> Iterator[Soaked]:
    """Smallest first; each collection is gone before the next is made."""
    for size in sizes:
        name = f"soak-{size}"
        place.fill_source(running, _texts(size), name=name, is_indexed=False)
        time.sleep(SETTLE_S)
        yield anyio.run(lambda name=name, size=size: soaked(name, size, is_killed=size == sizes[-1]))  # type: ignore[misc]
        place.client(running).delete_collection(name)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="points, smallest first")
    asked = parser.parse_args(argv)
    described, load = machine("qdrant-client"), load_before()
    rows: list[Soaked] = []
    with place.server() as running:
        for row in measured(running, asked.sizes):
            sys.stderr.write(f"{row}\n")
            rows.append(row)
    RESULTS.mkdir(exist_ok=True)
    found = {"machine": described, "load_average_before": load, "sizes": [asdict(row) for row in rows]}
    (RESULTS / "soak.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "soak.svg").write_text(f"{chart(rows)}\n", encoding="utf-8")
    text = markdown(rows, described, load)
    (RESULTS / "soak.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def markdown(rows: Sequence[Soaked], described: dict[str, str], load: str) -> str:
    """The results as a table, with the machine's description."""
    lines = [
        "# Throughput and memory against the size of a collection",
        "",
        "| points | written, points/s | until the passes ended | verified, points/s | peak memory of a worker |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {r.points:,} | {r.points_per_second:,.0f} | {r.backfilled_s:,.0f} s | {r.points / r.verified_s:,.0f} | {r.peak_mb:.0f} MB |"
        for r in rows
    ]
    lines += [
        f"\nThe worker of the largest was killed half-way: {r.resumed_s:.1f} s until its successor, started at once, wrote on, "
        f"{r.resumed_s / r.backfilled_s:.1%} of the run."
        for r in rows
        if r.resumed_s is not None
    ]
    facts = "; ".join(f"{name} {value}" for name, value in described.items())
    lines += [
        "",
        "One run each, from the start of the process on; 500 characters and 384 dimensions a point, a free embedder, gRPC, no index on the source.",
        f"Qdrant 1.17.0 on the same machine: {facts}. Load average before: {load}.",
        "",
        "![Throughput and memory against size](soak.svg)",
        "",
    ]
    return "\n".join(lines)


def chart(rows: Sequence[Soaked]) -> Markup:
    """Two panels over one logarithmic axis of points; by its own light background it is legible on any page."""
    panels = [
        ("written, points a second", [r.points_per_second for r in rows]),
        ("peak memory of a worker, MB", [r.peak_mb for r in rows]),
    ]
    low, high = math.log10(rows[0].points), math.log10(rows[-1].points)
    spots = [70.0 + 480.0 * (math.log10(r.points) - low) / (high - low or 1.0) for r in rows]
    parts: list[Any] = [element("rect", {"width": 620, "height": 400, "fill": "#ffffff"})]
    for number, (title, values) in enumerate(panels):
        top, bottom = 40.0 + 180.0 * number, 160.0 + 180.0 * number
        heights = [bottom - (bottom - top) * value / (1.15 * max(values)) for value in values]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(spots, heights, strict=True))
        parts.append(element("text", {"x": 60, "y": top - 14, "font-weight": "bold"}, title))
        parts.append(element("line", {"x1": 60, "x2": 560, "y1": bottom, "y2": bottom, "stroke": "#888888"}))
        parts.append(element("polyline", {"points": line, "fill": "none", "stroke": "#1f5fbf", "stroke-width": 2}))
        for row, value, x, y in zip(rows, values, spots, heights, strict=True):
            parts.append(element("circle", {"cx": x, "cy": y, "r": 4, "fill": "#1f5fbf"}))
            parts.append(element("text", {"x": x, "y": y - 9, "text-anchor": "middle"}, f"{value:,.0f}"))
            parts.append(element("text", {"x": x, "y": bottom + 17, "text-anchor": "middle"}, f"{row.points:,}"))
    return element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": "0 0 620 400",
            "font-family": "sans-serif",
            "font-size": 13,
            "fill": "#222222",
            "role": "img",
        },
        element("title", {}, "Throughput and memory of a backfill against the number of points"),
        *parts,
    )


if __name__ == "__main__":
    main()

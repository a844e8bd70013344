"""Where does a driver's time go? The profiles behind the limits that docs/scale.md states.

`python -m benchmarks.profiled` writes benchmarks/results/profile.json and .md. It needs py-spy (`pip install py-spy`, no dependency of the
project), which looks fifty times a second at the threads of this process while a target is filled. A look counts for the innermost
function that a row names. MiniLM comes from ../shared/assets (QDRANT_MIGRATION_TEST_ASSETS); without it that profile is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import peers, place
from benchmarks.backfill import FREE, RESULTS
from benchmarks.machine import load_before, machine
from benchmarks.texts import ASSETS, mixed_texts, short_texts
from tests.servers import QdrantServer

LOOKS_A_SECOND = 50
"""It stops the process for each; at 200 a migration takes twice as long."""
CORES = os.cpu_count() or 1
ROWS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("the model (ONNX Runtime)", ("onnxruntime/",)),
    # What a thread of anyio calls straight away, and FastEmbed before the model.
    ("tokenizing and counting tokens", ("tokenize (fastembed/", "run (anyio/_backends/_asyncio.py")),
    ("what FastEmbed does around it", ("fastembed/",)),
    ("hashing the texts (the free embedder)", ("embedders/builtin.py",)),
    (
        "points from Qdrant's messages",
        ("point (qdrant_model_migration/qdrant/wire.py", "_payload (", "_json (", "plain_id (", "_vectors ("),
    ),
    ("points into Qdrant's messages", ("qdrant/wire.py",)),
    ("gRPC", ("grpc/",)),
    ("checking texts and vectors", ("embedders/", "as_stored (", "domain/text")),
    ("the ledger, over REST", ("qdrant/ledger.py", "qdrant/records.py", "httpx/", "httpcore/", "qdrant_client/http/")),
    ("counting, windows, pace", ("worker/", "operations/", "qdrant/", "domain/")),
    ("the event loop", ("asyncio/", "anyio/")),
)
OTHER = "everything else"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One migration that is looked at: `only_gil` sees who holds the interpreter, else every thread that runs is seen."""

    title: str
    model: str
    collection: str
    only_gil: bool

    @property
    def at_once(self) -> int:
        """How many can be seen at work at once."""
        return 1 if self.only_gil else CORES


def main(argv: Sequence[str] | None = None) -> None:
    """Profile the migrations, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=60_000)
    parser.add_argument("--documents", type=int, default=1200, help="embedded with MiniLM")
    asked = parser.parse_args(argv)
    if shutil.which("py-spy") is None:
        raise SystemExit("py-spy was not found: pip install py-spy")
    found: dict[str, Any] = {
        "machine": machine("qdrant-client", "grpcio", "fastembed", "onnxruntime", "numpy"),
        "load_average_before": load_before(),
        "profiles": [],
    }
    with place.server() as running:
        found["profiles"].append(_free(running, asked.points))
        if ASSETS.is_dir():
            found["profiles"].append(_minilm(running, asked.documents))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "profile.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    text = markdown(found)
    (RESULTS / "profile.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def _free(running: QdrantServer, points: int) -> dict[str, Any]:
    place.fill_source(running, short_texts(points))
    title = f"{points} texts of 500 characters, an embedder that costs next to nothing ({FREE})"
    return _profiled(Profile(title=title, model=FREE, collection=place.SOURCE, only_gil=True))


def _minilm(running: QdrantServer, documents: int) -> dict[str, Any]:
    os.environ["QDRANT_MIGRATION_MODELS"] = json.dumps(peers.MINILM)
    place.fill_source(running, mixed_texts(documents), name=place.MIXED)
    title = f"{documents} paragraphs of mixed length, all-MiniLM-L6-v2"
    return _profiled(Profile(title=title, model="minilm", collection=place.MIXED, only_gil=False))


def _profiled(profile: Profile) -> dict[str, Any]:
    request = {"collection": profile.collection, "strategy": "new_collection", "model": profile.model, "text_field": "text"}
    place.migrated(**request)
    with tempfile.TemporaryDirectory() as folder:
        stacks = Path(folder) / "stacks"
        words = ["py-spy", "record", "-r", str(LOOKS_A_SECOND), "-f", "raw", "-o", str(stacks), "-p", str(os.getpid())]
        looking = subprocess.Popen([*words, *(["--gil"] if profile.only_gil else [])], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # It looks from now on; what is not the migration's would be seen, too.
        time.sleep(1.0)
        began = time.perf_counter()
        driven = place.migrated(**request)
        took_s = time.perf_counter() - began
        looking.send_signal(signal.SIGINT)
        looking.wait(60)
        seen = counted(stacks.read_text(encoding="utf-8"))
    each = 1e6 * took_s * profile.at_once / driven.points
    parts = {label: round(seen[label] / LOOKS_A_SECOND / took_s / profile.at_once, 3) for label in [*(label for label, _ in ROWS), OTHER]}
    return {
        "title": profile.title,
        "only_gil": profile.only_gil,
        "points_per_second": round(driven.points / driven.filling_s, 1),
        "microseconds_per_point": round(each),
        "shares": {**parts, "nobody": round(max(0.0, 1.0 - sum(parts.values())), 3)},
    }


def counted(stacks: str) -> Counter[str]:
    """Looks by row, of stacks as py-spy writes them: frames from the outermost on, `;` between them, and how often."""
    found: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, times = line.rpartition(" ")
        found[_row(frames.split(";"))] += int(times)
    return found


def _row(frames: list[str]) -> str:
    for frame in reversed(frames):
        for label, marks in ROWS:
            if any(mark in frame for mark in marks):
                return label
    return OTHER


def markdown(found: dict[str, Any]) -> str:
    parts = [
        "# Where a driver's time goes\n",
        f"Whole migrations over gRPC, passes after the filling included, Qdrant 1.17.0 on the same {CORES} cores.\n",
    ]
    for profile in found["profiles"]:
        whose = "who holds the interpreter" if profile["only_gil"] else f"who works on the {CORES} cores, Qdrant not counted"
        parts += [
            f"## {profile['title']}\n",
            f"{profile['points_per_second']} points/s while it fills, and py-spy looks on.\n",
            f"| {whose} | share | microseconds a point |\n| --- | --- | --- |",
            *(
                f"| {label} | {share:.1%} | {share * profile['microseconds_per_point']:.0f} |"
                for label, share in profile["shares"].items()
                if share
            ),
            "",
        ]
    parts.append(
        f"py-spy, {LOOKS_A_SECOND} looks a second. Machine: {json.dumps(found['machine'])}. Load average before: {found['load_average_before']}."
    )
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    main()

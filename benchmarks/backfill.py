"""How fast is a collection re-embedded, copied and verified, next to what people use today? Against a real Qdrant 1.17.0 on this machine.

`python -m benchmarks.backfill` writes benchmarks/results/backfill.json and .md; `--only copy` runs one part. The runs of what is compared
alternate, so that what else the machine does falls on both, and each ratio is taken round by round. MiniLM and the texts it is measured
with come from ../shared/assets (QDRANT_MIGRATION_TEST_ASSETS); without them that part is left out, and said to be.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from benchmarks import peers, place
from benchmarks.machine import load_before, machine
from benchmarks.texts import ASSETS, mixed_texts, short_texts
from tests.servers import QdrantServer

RESULTS = Path(__file__).parent / "results"
FREE = "builtin:hashing-384"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Ours against one peer, and the ratio that is to be reached."""

    ours: str
    peer: str
    at_least: float


@dataclass(frozen=True, kw_only=True)
class Part:
    """Things that do the same work, measured in turn: name -> points a second of one run."""

    title: str
    unit: str
    runs: dict[str, Callable[[], float]]
    targets: tuple[Target, ...]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count; one more warms up")
    parser.add_argument("--points", type=int, default=20_000, help="points of the source, where embedding is free or nothing is embedded")
    parser.add_argument("--documents", type=int, default=1200, help="documents embedded with MiniLM")
    parser.add_argument("--only", choices=["free", "copy", "verify", "minilm"], action="append", help="this part alone; may be repeated")
    asked = parser.parse_args(argv)
    wanted = asked.only or ["free", "copy", "verify", "minilm"]
    found: dict[str, Any] = {
        "machine": machine("qdrant-client", "fastembed", "onnxruntime", "numpy"),
        "load_average_before": load_before(),
        "rounds": asked.rounds,
        "points": asked.points,
        "documents": asked.documents,
        "parts": {},
    }
    with place.server() as running:
        texts = short_texts(asked.points)
        if {"free", "copy", "verify"} & set(wanted):
            place.fill_source(running, texts)
        makers: dict[str, Callable[[], Part]] = {
            "free": lambda: _free(running),
            "copy": lambda: _copy(running),
            "verify": lambda: _verify(running),
            "minilm": lambda: _minilm(running, asked.documents),
        }
        for name in wanted:
            if name == "minilm" and not ASSETS.is_dir():
                sys.stderr.write(f"Left out: {name}, for {ASSETS} is not there.\n")
                continue
            found["parts"][name] = _measured(makers[name](), asked.rounds)
    RESULTS.mkdir(exist_ok=True)
    name = "backfill" if not asked.only else "backfill-" + "-".join(asked.only)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    text = markdown(found)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def _free(running: QdrantServer) -> Part:
    def ours() -> float:
        driven = place.migrated(strategy="new_collection", model=FREE, text_field="text")
        return driven.points / driven.filling_s

    def until_equal() -> float:
        driven = place.migrated(strategy="new_collection", model=FREE, text_field="text")
        return driven.points / driven.seconds

    tutorial = "the tutorial's loop"
    return Part(
        title="Backfill with an embedder that costs next to nothing (builtin:hashing-384), texts of 500 characters",
        unit="points/s",
        runs={"ours": ours, "ours, until found equal": until_equal, tutorial: lambda: peers.tutorial(running, FREE)},
        targets=(Target(ours="ours", peer=tutorial, at_least=6.0),),
    )


def _copy(running: QdrantServer) -> Part:
    def ours() -> float:
        # The first stage of side_by_side copies everything; nothing is embedded in it.
        return place.copied()

    grpc, rest = "QdrantClient.migrate(batch_size=100), gRPC", "QdrantClient.migrate(batch_size=100), REST"
    return Part(
        title="Copy of vectors (384 dimensions) and payloads (500 characters)",
        unit="points/s",
        runs={"ours": ours, grpc: lambda: peers.migrate(running, grpc=True), rest: lambda: peers.migrate(running, grpc=False)},
        targets=(Target(ours="ours", peer=grpc, at_least=2.0), Target(ours="ours", peer=rest, at_least=4.0)),
    )


def _verify(running: QdrantServer) -> Part:
    migration = anyio.run(place.prepared, FREE)
    naive = "a check id by id"
    return Part(
        title="verify_target: ids and payloads of 500 characters on both sides, no provenance",
        unit="points/s",
        runs={"ours": lambda: anyio.run(place.verified, migration), naive: lambda: peers.id_by_id(running, migration.target.collection)},
        targets=(Target(ours="ours", peer=naive, at_least=30.0),),
    )


def _minilm(running: QdrantServer, documents: int) -> Part:
    texts = mixed_texts(documents)
    os.environ["QDRANT_MIGRATION_MODELS"] = json.dumps(peers.MINILM)
    place.fill_source(running, texts, name=place.MIXED)

    def ours() -> float:
        driven = place.migrated(collection=place.MIXED, strategy="new_collection", model="minilm", text_field="text")
        return driven.points / driven.filling_s

    defaults, sorted_batches = (
        "TextEmbedding.embed(), FastEmbed's defaults, nothing stored",
        "onnxruntime, tokenized before, batches of equal length",
    )
    return Part(
        title="Backfill with all-MiniLM-L6-v2 on paragraphs of mixed length",
        unit="documents/s",
        runs={
            "ours": ours,
            defaults: lambda: peers.fastembed_defaults(texts),
            sorted_batches: lambda: peers.onnxruntime_alone(texts),
        },
        targets=(Target(ours="ours", peer=defaults, at_least=2.5), Target(ours="ours", peer=sorted_batches, at_least=0.85)),
    )


def _measured(part: Part, rounds: int) -> dict[str, Any]:
    rates: dict[str, list[float]] = {name: [] for name in part.runs}
    for number in range(rounds + 1):
        for name, run in part.runs.items():
            rate = run()
            if number:
                rates[name].append(rate)
            sys.stderr.write(f"{name}: {rate:.0f} {part.unit}\n")
    ratios = [
        {
            "ours": t.ours,
            "peer": t.peer,
            "at_least": t.at_least,
            "ratio": _spread([a / b for a, b in zip(rates[t.ours], rates[t.peer], strict=True)]),
        }
        for t in part.targets
    ]
    return {"title": part.title, "unit": part.unit, "rates": {n: _spread(r) for n, r in rates.items()}, "ratios": ratios, "raw": rates}


def markdown(found: dict[str, Any]) -> str:
    """The results as tables, with the machine's description."""
    lines = ["# Backfill, copy and verification", ""]
    lines += [f"Medians of {found['rounds']} interleaved rounds (smallest to largest), Qdrant 1.17.0 on the same machine.", ""]
    for part in found["parts"].values():
        lines += [f"## {part['title']}", "", f"| | {part['unit']} |", "| --- | --- |"]
        lines += [f"| {name} | {_cell(spread, 0)} |" for name, spread in part["rates"].items()]
        lines += ["", "| ratio, round by round | measured | to be reached |", "| --- | --- | --- |"]
        lines += [f"| {r['ours']} / {r['peer']} | {_cell(r['ratio'], 2)} | {r['at_least']} |" for r in part["ratios"]]
        lines.append("")
    described = "; ".join(f"{name} {value}" for name, value in found["machine"].items())
    lines += [
        f"{found['points']} points; {found['documents']} documents with MiniLM. Machine: {described}. Load average before: {found['load_average_before']}.",
        "",
    ]
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "least": round(min(values), 3), "most": round(max(values), 3)}


def _cell(spread: dict[str, float], digits: int) -> str:
    return f"{spread['median']:,.{digits}f} ({spread['least']:,.{digits}f} to {spread['most']:,.{digits}f})"


if __name__ == "__main__":
    began = time.monotonic()
    main()
    sys.stderr.write(f"Took {time.monotonic() - began:.0f} s.\n")

"""How soon does a host see the tools? From process start to the answer of tools/list over stdio, against a bare server with one tool.

`python -m benchmarks.startup` writes benchmarks/results/startup.json and .md. The runs of both alternate, so that what else the machine does
falls on both; the ratio is taken pair by pair.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import load_before, machine

RESULTS = Path(__file__).parent / "results"
BARE = """
from mcp.server import MCPServer

server = MCPServer("bare")


@server.tool()
def add(a: int, b: int) -> int:
    return a + b


server.run("stdio")
"""
SERVERS = {"bare": ["-c", BARE], "ours": ["-m", "qdrant_model_migration"]}
COMMANDS = {"nothing": ["-c", "pass"], "--help": ["-m", "qdrant_model_migration", "--help"], "status --help": ["-m", "qdrant_model_migration", "status", "--help"]}  # fmt: skip
PROTOCOL = "2025-11-25"
MOST_RATIO = 1.3


@dataclass(frozen=True, kw_only=True)
class Run:
    wall_s: float
    cpu_s: float


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11, help="pairs of runs that count; one more warms up")
    runs = parser.parse_args(argv).runs
    load = load_before()
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(Path(folder))
        served = _interleaved({name: lambda args=args: answer(args, environment) for name, args in SERVERS.items()}, runs)
        commands = _interleaved({name: lambda args=args: command(args, environment) for name, args in COMMANDS.items()}, runs)
    pairs = list(zip(served["bare"], served["ours"], strict=True))
    found = {
        "machine": machine("mcp", "pydantic", "qdrant-client", "fastembed", "typer"),
        "load_average_before": load,
        "runs": runs,
        "tools_list": {name: _summary(measured) for name, measured in served.items()},
        "tools_list_ratio": {
            "wall_s": _spread([ours.wall_s / bare.wall_s for bare, ours in pairs]),
            "cpu_s": _spread([ours.cpu_s / bare.cpu_s for bare, ours in pairs]),
        },
        "most_ratio": MOST_RATIO,
        "commands": {name: _summary(measured) for name, measured in commands.items()},
        "raw": {name: [asdict(run) for run in measured] for name, measured in {**served, **commands}.items()},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "startup.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    text = markdown(found)
    (RESULTS / "startup.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def answer(arguments: Sequence[str], environment: dict[str, str]) -> Run:
    """Start a server, shake hands and list its tools, as a host does; then kill it."""
    began, before = time.perf_counter(), os.times()
    with subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        me = {"name": "benchmark", "version": "0"}
        _ask(process, 1, "initialize", {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": me})
        _send(process, {"jsonrpc": "2.0", "method": "notifications/initialized"})
        tools = _ask(process, 2, "tools/list", {})["tools"]
        wall_s = time.perf_counter() - began
        # What it does to end is no part of the figure.
        process.kill()
    assert tools
    return Run(wall_s=wall_s, cpu_s=_cpu_since(before))


def command(arguments: Sequence[str], environment: dict[str, str]) -> Run:
    """Run a command to its end."""
    began, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, env=environment, check=True, timeout=60)
    return Run(wall_s=time.perf_counter() - began, cpu_s=_cpu_since(before))


def markdown(found: dict[str, Any]) -> str:
    """The results as a table, with the machine's description."""
    lines = [
        "# Start-up",
        "",
        f"From process start to the answer of `tools/list` over stdio, median of {found['runs']} interleaved runs (smallest to largest).",
        "",
        "| server | seconds | CPU seconds |",
        "| --- | --- | --- |",
    ]
    names = {"bare": "a bare `MCPServer` with one tool", "ours": "qdrant-model-migration, all tools"}
    lines += [f"| {names[name]} | {_cell(of['wall_s'])} | {_cell(of['cpu_s'])} |" for name, of in found["tools_list"].items()]
    ratio = found["tools_list_ratio"]
    lines += [
        f"| ratio, pair by pair | {_cell(ratio['wall_s'])} | {_cell(ratio['cpu_s'])} |",
        "",
        f"To be reached: a ratio of at most {found['most_ratio']}.",
        "",
        "| command | seconds | CPU seconds |",
        "| --- | --- | --- |",
    ]
    shown = {"nothing": "`python -c pass`"}
    lines += [
        f"| {shown.get(name, f'`{name}`')} | {_cell(of['wall_s'])} | {_cell(of['cpu_s'])} |" for name, of in found["commands"].items()
    ]
    described = "; ".join(f"{name} {value}" for name, value in found["machine"].items())
    lines += ["", f"Machine: {described}. Load average before: {found['load_average_before']}.", ""]
    return "\n".join(lines)


def _interleaved(measured: dict[str, Any], runs: int) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {name: [] for name in measured}
    for number in range(runs + 1):
        for name, measure in measured.items():
            run = measure()
            if number:
                found[name].append(run)
    return found


def _environment(folder: Path) -> dict[str, str]:
    """As hosts start servers: hardly any environment. Nothing of the person's own settings is read."""
    kept = ("PATH", "PYTHONPATH", "SYSTEMROOT")
    return {**{name: os.environ[name] for name in kept if name in os.environ}, "HOME": str(folder), "QDRANT_PATH": str(folder / "qdrant")}


def _send(process: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message).encode() + b"\n")
    process.stdin.flush()


def _ask(process: subprocess.Popen[bytes], number: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
    assert process.stdout is not None
    _send(process, {"jsonrpc": "2.0", "id": number, "method": method, "params": params})
    while line := process.stdout.readline():
        message = json.loads(line)
        if message.get("id") == number:
            result: dict[str, Any] = message["result"]
            return result
    raise SystemExit(f"The server ended before it answered {method}.")


def _cpu_since(before: os.times_result) -> float:
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def _summary(measured: Sequence[Run]) -> dict[str, dict[str, float]]:
    return {"wall_s": _spread([run.wall_s for run in measured]), "cpu_s": _spread([run.cpu_s for run in measured])}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "least": round(min(values), 3), "most": round(max(values), 3)}


def _cell(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['least']:.2f} to {spread['most']:.2f})"


if __name__ == "__main__":
    main()

"""What is imported before anybody asked for it? A host waits for the list of tools, a person for the help."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from qdrant_model_migration.cli_names import COMMANDS, TITLES
from qdrant_model_migration.tools import TOOLS

HEAVY = frozenset(
    (
        *("fastembed", "huggingface_hub", "onnxruntime", "tokenizers", "torch"),
        *("grpc", "qdrant_client", "stamina"),
        *("ir_measures", "numpy", "pandas", "pyarrow", "scipy"),
        *("anthropic", "openai", "pydantic_ai"),
    )
)
"""What takes from a twentieth of a second to whole ones to import, and serves calls only. The SDK's server loads rich itself, for its logging."""

INNER = frozenset({"domain", "embedders", "operations", "qdrant", "worker"})
LIGHT = frozenset({"domain", "domain.untrusted", "operations", "operations.context", "operations.requests", "worker", "worker.detach"})
"""What of the inner layers the server's state is made of; everything else there waits for a call."""

FOR_HELP = frozenset({"__main__", "cli", "cli_names", "errors", "hosts"})

PACKAGE = "qdrant_model_migration"
_IMPORTED = re.compile(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$", re.MULTILINE)


def imported(report: str) -> set[str]:
    """The modules of a report of `-X importtime`."""
    found = set(_IMPORTED.findall(report))
    assert {"site", "typing"} <= found, report[-2000:]
    return found


def heavy(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] in HEAVY}


def of_inner_layers(modules: set[str]) -> set[str]:
    names = {name.removeprefix(f"{PACKAGE}.") for name in modules if name.startswith(f"{PACKAGE}.")}
    return {name for name in names if name.partition(".")[0] in INNER}


async def test_tools_are_listed_over_stdio_without_importing_what_calls_need(tmp_path: Path) -> None:
    """In the very process that a host starts; a call afterwards shows that the report would hold what is imported."""
    report = tmp_path / "stderr"
    server = StdioServerParameters(
        command=sys.executable,
        args=["-X", "importtime", "-m", PACKAGE],
        env={"PYTHONPATH": os.pathsep.join(sys.path), "QDRANT_PATH": str(tmp_path / "qdrant")},
        cwd=tmp_path,
    )
    with report.open("w") as errors, anyio.fail_after(100):
        async with Client(stdio_client(server, errlog=errors)) as client:
            assert {tool.name for tool in (await client.list_tools()).tools} == {spec.name for spec in TOOLS}
            before = imported(report.read_text())
            assert not (await client.call_tool("inspect_collection", {})).is_error
            after = imported(report.read_text())
    assert heavy(before) == set()
    assert of_inner_layers(before) == LIGHT
    assert {"qdrant_client", "numpy"} <= heavy(after)
    # qdrant_client would load FastEmbed, and these with it, for methods that are not used here.
    assert not {"onnxruntime", "huggingface_hub", "PIL"} & after
    assert "operations.inspect" in of_inner_layers(after)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["status", "--help"], ["worker", "--help"]], ids=" ".join)
def test_help_is_shown_without_importing_what_commands_need(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", PACKAGE, *words], capture_output=True, text=True, check=True, timeout=100
    )
    found = imported(done.stderr)
    assert heavy(found) == set()
    assert "rich" not in found
    if "status" in words:  # its options are those of the tool, read from its signature
        assert of_inner_layers(found) == {"domain", "domain.untrusted"}
    else:
        assert {name for name in found if name.startswith(PACKAGE)} <= {PACKAGE, *(f"{PACKAGE}.{name}" for name in FOR_HELP)}
        assert "mcp" not in found


def test_the_list_of_commands_shows_the_titles_of_the_tools() -> None:
    """They stand twice so that the list needs no tool."""
    titles = {spec.name: spec.title for spec in TOOLS}
    assert {command: titles[tool] for command, tool in COMMANDS.items()} == TITLES
    assert list(TITLES) == list(COMMANDS)

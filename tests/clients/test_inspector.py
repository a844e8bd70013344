"""What does the Inspector, which people debug servers with, find? Its strict look at the schemas, and calls by its command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from qdrant_model_migration.tools import TOOLS
from tests.clients.conftest import Serve
from tests.clients.installed import run

pytestmark = pytest.mark.timeout(900)

TOOL_FAILED = 5


def inspected(environment: Mapping[str, str], *words: str, code: int = 0) -> tuple[Any, str]:
    """(what it prints, parsed; its standard error) of one look at the server over stdio."""
    given = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
    server = (sys.executable, "-m", "qdrant_model_migration")
    done = run("mcp-inspector", "--cli", *given, "--format", "json", *words, "--", *server)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return (json.loads(done.stdout)["result"] if done.stdout.strip() else None), done.stderr


@pytest.fixture
def embedded(tmp_path: Path) -> dict[str, str]:
    return {"QDRANT_PATH": str(tmp_path / "qdrant"), "HOME": str(tmp_path)}


def test_every_schema_is_portable(embedded: dict[str, str]) -> None:
    # Exit code 6 would tell a problem that is an error.
    found, _ = inspected(embedded, "--method", "tools/list", "--strict")
    assert [tool["name"] for tool in found["tools"]] == [spec.name for spec in TOOLS]


def test_a_tool_is_called_and_one_that_refuses_is_told_apart(embedded: dict[str, str]) -> None:
    found, _ = inspected(embedded, "--method", "tools/call", "--tool-name", "inspect_collection")
    assert found["structuredContent"]["collections"] == []
    words = ("--method", "tools/call", "--tool-name", "inspect_collection", "--tool-arg", "collection=missing")
    found, told = inspected(embedded, *words, code=TOOL_FAILED)
    assert "missing" in json.dumps(found) + told


def test_resources_and_prompts_are_listed_over_http(serve: Serve) -> None:
    url = serve()
    listed = {}
    for method in ("resources/list", "resources/templates/list", "prompts/list"):
        done = run("mcp-inspector", "--cli", "--format", "json", "--method", method, "--transport", "http", "--server-url", url)
        assert done.returncode == 0, done.stderr[-3000:]
        listed[method] = json.loads(done.stdout)["result"]
    assert "skill://qdrant-model-migration/SKILL.md" in {r["uri"] for r in listed["resources/list"]["resources"]}
    assert "migration://{migration_id}" in {t["uriTemplate"] for t in listed["resources/templates/list"]["resourceTemplates"]}
    assert "replace_model" in {p["name"] for p in listed["prompts/list"]["prompts"]}

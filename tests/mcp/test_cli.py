"""Does the command line carry a whole migration through, and do its exit codes and streams tell scripts what happened?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from qdrant_model_migration.cli import app
from qdrant_model_migration.cli_calls import ANSWER_IS_NO, DONE, STILL_RUNNING, exit_code
from qdrant_model_migration.cli_names import COMMANDS, command_line, in_commands
from qdrant_model_migration.cli_output import print_result
from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.results import CandidateRow, ChangedQuery, CompareResult, Hit, Result, SwapResult, VerifyResult
from qdrant_model_migration.tools import TOOLS
from tests.conftest import Backend
from tests.qdrant.seeds import NEW, OLD, opened, seed, text
from tests.servers import QdrantServer

TIMEOUT_S = 100


def cli(*words: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """One command as a person runs it."""
    return subprocess.run(
        [sys.executable, "-m", "qdrant_model_migration", *words],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )


class Person:
    """Types commands against one Qdrant."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment

    def run(self, *words: str, code: int = 0) -> str:
        """Stdout of a command that ends with `code`."""
        done = cli(*words, environment=self.environment)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def ask(self, *words: str, code: int = 0) -> dict[str, Any]:
        """The structured result: all that stdout holds."""
        found = json.loads(self.run(*words, "--json", code=code))
        assert isinstance(found, dict)
        return found

    def error(self, *words: str, code: int = 1) -> str:
        """Stderr of a command that fails; its stdout is empty."""
        done = cli(*words, environment=self.environment)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr


async def seeded(backend: Backend, monkeypatch: pytest.MonkeyPatch, name: str, points: int = 60) -> Person:
    """A collection `<name>-a` behind the alias `<name>`, and a person who is to migrate it."""
    async with opened(backend, monkeypatch) as context:
        await seed(context, f"{name}-a", points=points)
        await (await context.gateway()).point_alias(name, f"{name}-a")
    return Person(backend.environment)


def embedded(tmp_path: Path) -> Backend:
    return Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "qdrant")}, version=None)


def on(server: QdrantServer, name: str) -> Backend:
    environment = {**server.environment, "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations", "QDRANT_MIGRATION_LEASE_SECONDS": "4"}
    return Backend(name="server", environment=environment, version=server.version)


CREATE = ("--strategy", "new_collection", "--model", NEW, "--current-model", OLD, "--text-field", "text")


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_whole_migration_by_command_in_the_embedded_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """Each command is a process of its own; the driver runs inside it, so backfill stays until it is done."""
    person = await seeded(embedded(tmp_path), monkeypatch, name)
    shown = person.run("inspect", name)
    assert "60 points" in shown
    assert f"qdrant-model-migration recommend {name}" in shown
    assert person.ask("inspect", name)["collection"]["name"] == f"{name}-a"
    best = person.ask("recommend", name, "--goal", "replace_model", "--model", NEW, "--current-model", OLD)["recommendations"][0]
    assert best["strategy"] == "new_collection"
    assert person.ask("create-target", name, *CREATE, "--dry-run")["is_dry_run"]
    made = person.ask("create-target", name, *CREATE)
    migration, target = made["migration_id"], made["target"]["collection"]
    assert "Call backfill" in person.error("verify", migration)
    assert f"qdrant-model-migration verify {migration}" in person.run("backfill", migration)
    assert person.ask("status")["phase"] == "backfilled"
    assert person.ask("verify", migration)["is_complete"]
    compared = person.ask("compare", migration, "--query", "heat flow", "--query", json.dumps({"text": "wing", "relevant_ids": [1]}))
    assert compared["migration_id"] == migration
    planned = person.run("swap", migration)
    code = person.ask("swap", migration)["plan"]["code"]
    assert f"qdrant-model-migration swap {migration} --plan {code}" in planned
    assert "no plan" in person.error("swap", migration, "--plan", f"{name}-0000")
    assert person.ask("swap", migration, "--plan", code)["current"] == target
    again = person.ask("swap", migration, "--direction", "back")
    assert again["plan"]["moves"][0]["to_collection"] == f"{name}-a"
    done = person.run("finish", migration, "delete_old", "--yes")
    assert done.startswith("Plan ")
    assert f"{name}-a" in done
    assert person.ask("status", migration)["phase"] == "finished"
    assert [c["name"] for c in person.ask("inspect")["collections"]] == [target]


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_worker_goes_on_alone_and_is_watched(monkeypatch: pytest.MonkeyPatch, server_1_17: QdrantServer, name: str) -> None:
    """With a server `backfill` returns at once, and another process follows the work to its end."""
    person = await seeded(on(server_1_17, name), monkeypatch, name, points=300)
    migration = person.ask("create-target", name, *CREATE, "--writes", "frozen")["migration_id"]
    started = person.ask("backfill", migration)
    assert started["watch_command"] == f"qdrant-model-migration status {migration} --watch"
    watched = cli("status", migration, "--watch", "--json", environment=person.environment)
    assert watched.returncode == 0, watched.stderr
    assert json.loads(watched.stdout)["phase"] == "backfilled"
    assert "Traceback" not in watched.stderr
    assert person.ask("verify", migration)["is_complete"]
    swapped = cli("swap", migration, "--yes", "--json", environment=person.environment)
    assert swapped.returncode == 0, swapped.stderr
    assert json.loads(swapped.stdout)["current"].startswith(f"{name}-a")
    assert "Plan " in swapped.stderr
    assert person.ask("finish", migration, "keep_old", "--yes")["phase"] == "finished"


@pytest.mark.timeout(200)
async def test_a_target_that_is_not_complete_is_exit_code_4(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    backend = embedded(tmp_path)
    person = await seeded(backend, monkeypatch, name)
    migration = person.ask("create-target", name, *CREATE, "--writes", "frozen")["migration_id"]
    person.ask("backfill", migration)
    async with opened(backend, monkeypatch) as context:
        late = [Point(id=1000 + n, payload={"text": text(n)}, vectors={"": [1.0, float(n), *[0.0] * 62]}) for n in range(2)]
        await (await context.gateway()).points.write(f"{name}-a", late)
    found = person.ask("verify", migration, code=4)
    assert found["missing"] == 2
    assert person.ask("repair", migration)["repaired"]["missing"] == 2
    assert person.ask("verify", migration)["is_complete"]


async def test_errors_are_those_of_the_tools_and_stdout_stays_empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    person = await seeded(embedded(tmp_path), monkeypatch, name)
    assert f"Did you mean '{name}'" in person.error("inspect", f"{name}x")
    assert "there is no migration 'm-000000'" in person.error("status", "m-000000")
    assert "Nothing was compared" in person.error("compare")


@pytest.mark.parametrize(
    "words",
    [
        ("recommend", "docs"),
        ("recommend", "docs", "--goal", "fly"),
        ("inspect", "--sample-size", "0"),
        ("verify",),
        ("compare", "m-1", "--query", "{no json"),
        ("swap", "m-1", "--yes", "--plan", "docs-1234"),
        ("create-target", "docs", "--strategy", "new_collection", "--gate", "ndcg"),
        ("dance",),
    ],
)
def test_wrong_usage_is_exit_code_2(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Error" in done.stderr


def test_a_malformed_setting_is_named_by_every_command() -> None:
    for words in (("inspect",), ("serve",), ("config", "vscode")):
        done = cli(*words, environment={"QDRANT_URL": "nonsense"})
        assert (done.returncode, done.stdout) == (1, "")
        assert "QDRANT_URL" in done.stderr
        assert "Traceback" not in done.stderr


def test_read_only_mode_refuses_what_writes(tmp_path: Path) -> None:
    person = Person({"QDRANT_PATH": str(tmp_path), "QDRANT_MIGRATION_READ_ONLY": "true"})
    assert "QDRANT_MIGRATION_READ_ONLY" in person.error("swap", "m-1")
    assert person.ask("inspect")["collections"] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_names_its_options_and_exit_codes(command: str) -> None:
    done = CliRunner().invoke(app, (command, "--help"))
    assert done.exit_code == 0
    assert "--json" in done.stdout
    assert "3 still running" in " ".join(done.stdout.split())
    assert "not in this version" not in done.stdout
    # A goal of recommend is called as a tool is.
    assert not [tool for tool in COMMANDS.values() if tool in done.stdout.replace("|compare_models|", "")]


def test_every_tool_has_a_command_and_the_way_back() -> None:
    assert list(COMMANDS.values()) == [spec.name for spec in TOOLS]
    made = command_line("compare_models", {"migration_id": "m-1", "queries": ["heat flow", {"text": "wing"}], "k": 5})
    assert made == """qdrant-model-migration compare m-1 --queries 'heat flow' --queries '{"text": "wing"}' --k 5"""
    made = command_line("finish_migration", {"migration_id": "m-1", "action": "delete_old", "snapshot_first": False, "plan": None})
    assert made == "qdrant-model-migration finish m-1 delete_old --no-snapshot-first"
    assert in_commands("Call repair_target, then verify_target.") == "Call repair, then verify."


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (VerifyResult(summary="", migration_id="m", phase="backfilled", state="running"), STILL_RUNNING),
        (VerifyResult(summary="", migration_id="m", phase="backfilled", is_complete=False), ANSWER_IS_NO),
        (VerifyResult(summary="", migration_id="m", phase="verified", is_complete=True), DONE),
        # After the swap the app writes to the target alone; only a wrong vector is a fault.
        (VerifyResult(summary="", migration_id="m", phase="cut_over", is_complete=False, changed=3), DONE),
        (VerifyResult(summary="", migration_id="m", phase="cut_over", is_complete=False, bad_vectors=1), ANSWER_IS_NO),
        (CompareResult(summary="", verdict="worse"), ANSWER_IS_NO),
        (CompareResult(summary="", verdict="equivalent", gate="fail"), ANSWER_IS_NO),
        (CompareResult(summary="", verdict="inconclusive"), DONE),
        (SwapResult(summary="", migration_id="m", phase="verified", refusal="the plan expired"), ANSWER_IS_NO),
    ],
)
def test_exit_codes_tell_running_from_a_no(result: Result, code: int) -> None:
    assert exit_code(result) == code


def test_texts_of_points_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hit = Hit(point_id="i:1", text="harmless \x1b]0;title\x07 \x1b[2J \u202e text [bold]kept[/bold]")
    changed = ChangedQuery(query="\x1b[31mred", overlap=0.5, baseline=[hit], candidate=[hit])
    print_result(CompareResult(summary="one \x1b[5m line", warnings=["\x9b2J"], most_changed=[changed]), None)
    out = capsys.readouterr().out
    assert not [c for c in out if not c.isprintable() and c != "\n"]
    assert "[bold]kept[/bold]" in out


def test_candidates_are_shown_with_what_each_takes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    rows = [
        CandidateRow(model="minilm", value=0.5, documents_per_second=1234.5, bytes_per_point=1536),
        CandidateRow(
            model="minilm + bm25 (RRF)",
            value=0.61,
            difference=0.11,
            ci_low=0.02,
            ci_high=0.2,
            verdict="better",
            usd_per_million_points=12.5,
            bytes_per_point=2100,
        ),
    ]
    print_result(CompareResult(summary="done", primary_metric="ndcg@10", candidates_table=rows), None)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "model ndcg@10 difference 95 % interval verdict documents/s USD per million points bytes a point" in lines
    assert "minilm 0.5000 - - - 1,234 - 1,536" in lines
    assert "minilm + bm25 (RRF) 0.6100 +0.1100 +0.0200 to +0.2000 better - 12.50 2,100" in lines
    print_result(CompareResult(summary="of a migration"), None)
    assert "Candidates" not in capsys.readouterr().out


def test_serving_imports_neither_models_nor_metrics_before_they_are_needed() -> None:
    """Hosts start the server with every chat, some of them twice."""
    code = "import sys, qdrant_model_migration.cli as c, qdrant_model_migration.app; print([m for m in ('ir_measures', 'pydantic_ai', 'qdrant_model_migration.cli_output') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_without_a_command_mcp_is_served_on_stdio_and_stdout_is_the_protocol_only(tmp_path: Path) -> None:
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
    }
    done = subprocess.run(
        [sys.executable, "-m", "qdrant_model_migration"],
        input=json.dumps(hello) + "\n",
        env={**os.environ, "QDRANT_PATH": str(tmp_path / "qdrant")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    [answer] = [json.loads(line) for line in done.stdout.splitlines()]
    assert answer["result"]["serverInfo"]["name"] == "qdrant-model-migration"
    assert not (tmp_path / "qdrant").exists()

"""Does the demonstration come to its end, tell what it measured, and leave nothing behind?"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import pytest
from rich.console import Console

from qdrant_model_migration.demo import run_demo
from qdrant_model_migration.demo.application import documents, judged_queries
from tests.servers import QdrantServer
from tests.servers import request as rest

COMMAND = (sys.executable, "-m", "qdrant_model_migration", "demo")


def names_on(server: QdrantServer) -> list[str]:
    """Every collection and alias."""
    collections = rest(f"{server.url}/collections")["result"]["collections"]
    aliases = rest(f"{server.url}/aliases")["result"]["aliases"]
    return [c["name"] for c in collections] + [a["alias_name"] for a in aliases]


def prefix_in(output: str) -> str:
    found = re.search(r"names begin with '(demo_[0-9a-f]{8}_)'", output)
    assert found is not None, output
    return found[1]


def left_by(output: str, server: QdrantServer) -> list[str]:
    return [name for name in names_on(server) if name.startswith(prefix_in(output))]


def run(environment: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        COMMAND,
        env={**os.environ, **environment},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def everything_in(folder: Path) -> list[Path]:
    return list(folder.rglob("*"))


def assert_is_the_whole_story(output: str) -> None:
    """Each call in its order, the measured numbers, not one failed query, and where things are."""
    calls = [
        "> inspect_collection(", "> recommend_strategy(", "> create_target(", "> start_backfill(", "> migration_status(", "> verify_target(",
        "> compare_models(", "> swap_alias(", "> finish_migration(", "What happened", "How the two models differ", "What is where now", "Next",
    ]  # fmt: skip
    places = [output.find(call) for call in calls]
    assert -1 not in places, dict(zip(calls, places, strict=True))
    assert places == sorted(places)
    assert output.count("Here a person decides. The demonstration plays that person") == 2
    assert "missing 0, extra 0, changed 0, bad vectors 0" in output
    # The models are deterministic and the questions fixed: these are the numbers, and the comparison is between them.
    assert "ndcg@10 | 0.294 | 0.593 | +0.299 | +0.158 to +0.441" in output
    assert "Failed queries: 0." in output
    counts = re.search(r"(\d+) before the migration, (\d+) while it ran, (\d+) after the swap", output)
    assert counts is not None
    assert all(int(count) >= 10 for count in counts.groups())
    assert "A reader that goes on with the old model fails now" in output
    assert "One that gained:" in output
    assert "One that lost:" in output
    assert "for demonstration only" in output
    assert "qdrant-model-migration config claude-desktop" in output


@pytest.mark.slow
def test_the_command_shows_a_whole_migration_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    """Without a server: not in the home directory, not where it was started, not among the temporary files."""
    # A folder of the person's own that must not be used.
    done = run({"QDRANT_PATH": str(home / "mine")}, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert_is_the_whole_story(done.stdout)
    assert "docs' points to 'docs_v1__hashing_512'" in done.stdout
    assert everything_in(home) == []
    assert everything_in(tmp_path) == []
    folder = re.search(r"an embedded database in (\S+)\. Nothing", done.stdout)
    assert folder is not None
    assert not Path(folder[1]).exists()


@pytest.mark.slow
async def test_keep_leaves_the_embedded_database_and_says_where(home: Path) -> None:
    written = io.StringIO()
    assert await run_demo(Console(file=written, width=100), keep=True) == 0
    output = written.getvalue()
    assert_is_the_whole_story(output)
    found = re.search(r"Kept, as asked: QDRANT_PATH=(\S+?)\. Delete", output)
    assert found is not None
    kept = Path(found[1])
    assert {"docs_v1", "docs_v1__hashing_512", "_model_migrations"} <= {folder.name for folder in (kept / "collection").iterdir()}
    shutil.rmtree(kept.parent)
    assert everything_in(home) == []


@pytest.mark.slow
@pytest.mark.in_turn
def test_on_a_server_everything_is_removed(server: QdrantServer, home: Path, tmp_path: Path) -> None:
    done = run(server.environment, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert_is_the_whole_story(done.stdout)
    assert left_by(done.stdout, server) == []
    removed = re.search(r"Removed from the server: (.*)\. \(", done.stdout)
    assert removed is not None
    assert len(removed[1].split(", ")) == 4
    assert everything_in(home) == []


@pytest.mark.slow
def test_ctrl_c_during_the_backfill_removes_everything(server_1_17: QdrantServer, tmp_path: Path) -> None:
    with subprocess.Popen(
        COMMAND,
        env={**os.environ, **server_1_17.environment, "PYTHONUNBUFFERED": "1"},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("> migration_status("):
                break
        assert left_by("".join(lines), server_1_17)
        process.send_signal(signal.SIGINT)
        rest_of_it, _ = process.communicate(timeout=60)
    output = "".join(lines) + rest_of_it
    assert process.returncode == 130, output
    assert "Interrupted." in output
    assert left_by(output, server_1_17) == []


def test_a_step_that_fails_is_shown_and_what_was_made_is_removed(server_1_17: QdrantServer, tmp_path: Path) -> None:
    """The source may be made, the target may not."""
    done = run({**server_1_17.environment, "QDRANT_MIGRATION_ALLOWED_COLLECTIONS": "demo_*_docs_v1"}, tmp_path)
    assert done.returncode == 1, done.stdout
    assert "The demonstration stopped: create_target answered with an error" in done.stdout
    assert "QDRANT_MIGRATION_ALLOWED_COLLECTIONS" in done.stdout
    assert left_by(done.stdout, server_1_17) == []


async def test_read_only_mode_is_refused_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("QDRANT_MIGRATION_READ_ONLY", "true")
    written = io.StringIO()
    assert await run_demo(Console(file=written, width=100)) == 1
    assert "QDRANT_MIGRATION_READ_ONLY is set" in written.getvalue()


def test_every_question_asks_for_a_shipped_paragraph() -> None:
    ids = [document["id"] for document in documents()]
    assert len(set(ids)) == len(ids) == 420
    assert len(judged_queries()) == 34
    assert {wanted for query in judged_queries() for wanted in query.relevant_ids} <= set(ids)
    data = files("qdrant_model_migration") / "demo_data"
    assert len((data / "documents.jsonl").read_bytes()) < 250_000
    assert "CC0-1.0" in (data / "README.md").read_text("utf-8")

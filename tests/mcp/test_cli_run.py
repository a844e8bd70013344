"""Does `run` carry a migration through unattended, and stop where a person has to decide?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qdrant_model_migration.domain.points import Point
from tests.mcp.test_cli import CREATE, Person, cli, embedded, on, seeded
from tests.qdrant.seeds import NEW, OLD, opened, text
from tests.servers import QdrantServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WHOLE = (*CREATE, "--writes", "frozen")


def leads_to(person: Person, alias: str) -> str:
    found: str = person.ask("inspect", alias)["collection"]["name"]
    return found


def judged(folder: Path, *, relevant: str) -> tuple[str, ...]:
    """Queries that are texts of points, judged so; or of which each is told to be about another point."""
    rows = [{"id": n, "text": text(n), "relevant_ids": [n if relevant == "own" else (n + 7) % 40]} for n in range(1, 31)]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return ("--queries-file", "queries.jsonl")


async def test_without_yes_it_stops_at_the_plan_and_goes_on_with_it(
    monkeypatch: pytest.MonkeyPatch, server_1_17: QdrantServer, name: str
) -> None:
    person = await seeded(on(server_1_17, name), monkeypatch, name)
    first = cli("run", name, *WHOLE, environment=person.environment)
    assert first.returncode == 0, first.stderr
    assert "without --yes the plan is yours to agree to" in first.stderr
    assert "qdrant-model-migration swap" in first.stdout
    assert leads_to(person, name) == f"{name}-a"
    second = person.ask("run", name, *WHOLE, "--yes")
    assert second["phase"] == "cut_over"
    assert leads_to(person, name) == second["current"] != f"{name}-a"
    # One migration, which is not begun twice.
    assert person.ask("status")["migration_id"] == second["migration_id"]
    assert person.ask("run", name, *WHOLE, "--yes")["migration_id"] == second["migration_id"]


async def test_a_whole_migration_in_the_embedded_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    person = await seeded(embedded(tmp_path), monkeypatch, name)
    done = person.ask("run", name, *WHOLE, "--yes")
    assert done["phase"] == "cut_over"
    assert leads_to(person, name) == done["current"]


async def test_a_gate_that_fails_moves_nobody(
    monkeypatch: pytest.MonkeyPatch, server_1_16: QdrantServer, tmp_path: Path, name: str
) -> None:
    backend = on(server_1_16, name)
    person = await seeded(backend, monkeypatch, name)
    person.environment = {**backend.environment, "QDRANT_MIGRATION_ALLOWED_DIRECTORIES": str(tmp_path)}
    # From 64 to 32 dimensions of hashed words something is lost; none of it is allowed.
    gate = json.dumps({"metric": "ndcg@10", "margin": 0.0})
    found = cli("run", name, *WHOLE, "--gate", gate, *judged(tmp_path, relevant="other"), "--yes", "--json", environment=person.environment)
    assert found.returncode == 4, found.stderr
    answer = json.loads(found.stdout)
    assert answer["gate"] == "fail" or answer["verdict"] == "worse"
    assert leads_to(person, name) == f"{name}-a"
    assert person.ask("status")["phase"] == "verified"


async def test_what_a_repair_puts_right_stops_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    backend = embedded(tmp_path)
    person = await seeded(backend, monkeypatch, name)
    migration = person.ask("create-target", name, *WHOLE)["migration_id"]
    person.ask("backfill", migration)
    async with opened(backend, monkeypatch) as context:
        late = [Point(id=1000 + n, payload={"text": text(n)}, vectors={"": [1.0, float(n), *[0.0] * 62]}) for n in range(2)]
        await (await context.gateway()).points.write(f"{name}-a", late)
    done = cli("run", name, *WHOLE, "--yes", "--json", environment=person.environment)
    assert done.returncode == 0, done.stderr
    assert "repair_target" in done.stderr
    assert json.loads(done.stdout)["migration_id"] == migration
    assert leads_to(person, name) == json.loads(done.stdout)["current"]


async def test_a_field_beside_the_others_is_added_and_filled(monkeypatch: pytest.MonkeyPatch, server_1_17: QdrantServer, name: str) -> None:
    """side_by_side fills after the swap: the run goes on until the field is complete."""
    person = await seeded(on(server_1_17, name), monkeypatch, name)
    words = ("--strategy", "side_by_side", "--new-vector", "new", "--model", NEW, "--current-model", OLD, "--text-field", "text")
    done = person.ask("run", name, *words, "--writes", "frozen", "--yes")
    assert person.ask("status", done["migration_id"])["coverage"] == 1.0


async def test_what_cannot_be_begun_is_an_error_and_nothing_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    person = await seeded(embedded(tmp_path), monkeypatch, name)
    assert "no-such-model" in person.error("run", name, "--strategy", "new_collection", "--model", "no-such-model", "--text-field", "text")
    assert person.ask("status")["phase"] == "none"
    assert "no-such-collection" in person.error("run", "no-such-collection", *WHOLE)
    assert "JSON" in person.error("run", name, *WHOLE, "--gate", "{", code=2)


def test_its_help_names_what_it_takes_and_the_exit_codes() -> None:
    told = " ".join(cli("run", "--help").stdout.split())
    for part in ("--strategy", "--queries-file", "--gate", "--yes", "4 the answer is a no"):
        assert part in told
    assert "--dry-run" not in told

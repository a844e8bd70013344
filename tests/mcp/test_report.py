"""Does the report of a real migration hold what the tools answered, as a resource and as files of the command line?"""

from __future__ import annotations

from pathlib import Path

import pytest

from qdrant_model_migration.operations.report_files import write_report
from tests.conftest import Backend
from tests.mcp.hosts import Host, hosted
from tests.mcp.test_cli import cli
from tests.pages import Node, read_page, rows_of
from tests.qdrant.seeds import NEW, OLD, opened, seed, text
from tests.qdrant.works import work_on

pytestmark = [pytest.mark.timeout(180), pytest.mark.in_turn]

POINTS = 400
QUERIES = [{"text": text(n), "relevant_ids": [str(n)]} for n in range(0, POINTS, 9)]


async def _page(host: Host, migration_id: str) -> Node:
    (found,) = (await host.client.read_resource(f"migration://{migration_id}/report.html")).contents
    return read_page(getattr(found, "text", ""))


async def test_a_report_agrees_with_what_the_tools_answered(
    any_qdrant: Backend, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=POINTS)
        await (await context.gateway()).point_alias(f"{name}-live", name)
    out = tmp_path / "kept"
    out.mkdir()
    async with hosted(any_qdrant.environment) as host:
        made = await host.call(
            "create_target", collection=name, strategy="new_collection", model=NEW, text_field="text", current_model=OLD, writes="frozen"
        )
        me = made["migration_id"]
        begun = await _page(host, me)
        assert not begun.all("svg")
        assert "No throughput was recorded" in begun.text
        # Slow enough for several stretches.
        await host.call("start_backfill", migration_id=me, points_per_second=150)
        await host.backfilled(me)
        await host.whole("verify_target", migration_id=me)
        compared = await host.whole("compare_models", migration_id=me, queries=QUERIES, id_field="point")
        plan = (await host.call("swap_alias", migration_id=me))["plan"]
        await host.whole("swap_alias", migration_id=me, plan=plan["code"])
        page = await _page(host, me)
        status = await host.call("migration_status", migration_id=me)
    differences, overlaps, speed = (rows_of(pair.one("table")) for pair in page.all("div", "pair"))
    answered = [m for m in compared["metrics"] if m["difference"] is not None]
    assert len(answered) == 3
    assert [row[0] for row in differences] == [m["metric"] for m in answered]
    assert [row[3] for row in differences] == [f"{m['difference']:+.3f}" for m in answered]
    assert [row[4] for row in differences] == [f"{m['ci_low']:+.3f} to {m['ci_high']:+.3f}" for m in answered]
    # Each query's share of ten results is a whole number of tenths, so that the mean follows from the bars.
    counts = [int(row[1]) for row in overlaps]
    assert sum(counts) == len(QUERIES)
    mean = sum(place * count for place, count in enumerate(counts)) / 10 / len(QUERIES)
    assert mean == pytest.approx(compared["overlap_at_k"], abs=1e-9)
    assert sum(int(row[2].replace(",", "")) for row in speed) == POINTS
    assert len(speed) >= 2
    assert all(float(row[3].replace(",", "")) >= 1 for row in speed)
    assert compared["verdict"] in page.one("dl").text
    events = rows_of(page.all("table")[-1])
    assert [row[:2] for row in events][-len(status["events"]) :] == [[e["at"], e["event"]] for e in status["events"]]
    assert {"backfilled", "compared", "swapped"} <= {row[1] for row in events}

    written = cli("report", me, "--out", str(out), environment=any_qdrant.environment)
    assert written.returncode == 0, written.stderr
    assert written.stdout.split() == ["Wrote", str(out / "report.md"), "Wrote", str(out / "report.html")]
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "report.md"]
    kept = read_page((out / "report.html").read_text(encoding="utf-8"))
    assert [n.text for n in kept.all("table")] == [n.text for n in page.all("table")]
    assert (out / "report.md").read_text(encoding="utf-8").startswith(f"# Migration {me}\n")


async def test_a_field_that_is_filled_in_place_has_its_chart_too(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "qdrant")}, version=None)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name, vector="old")
    async with hosted(backend.environment) as host:
        made = await host.call("create_target", collection=name, strategy="named_vector", model=NEW, text_field="text", writes="frozen")
        await host.call("start_backfill", migration_id=made["migration_id"])
        await host.backfilled(made["migration_id"])
        page = await _page(host, made["migration_id"])
    assert [chart.one("title").text for chart in page.all("svg")] == ["Throughput: filling the new field"]
    assert [row[2] for row in rows_of(page.one("div", "pair").one("table"))] == ["40"]


async def test_a_key_is_hidden_as_it_is_and_as_html_writes_it(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an error of a provider repeats becomes an event, and the page escapes it."""
    key = "sk-a&b<c>'d\"-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "qdrant")}, version=None)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name)
        work = await work_on(context, name)
        await work.record("stopped", f"the provider said: {key}!")
        written = await write_report(work.ledger, work.migration, tmp_path)
    markdown, page = (path.read_text(encoding="utf-8") for path in written)
    assert "the provider said: ***!" in markdown
    assert "the provider said: ***!" in read_page(page).text


async def test_files_are_replaced_as_a_whole_and_only_in_a_folder_that_is_there(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "qdrant")}, version=None)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name)
    async with hosted(backend.environment) as host:
        made = await host.call("create_target", collection=name, strategy="new_collection", model=NEW, text_field="text")
    out, other = tmp_path / "out", tmp_path / "other.html"
    missing = cli("report", "--out", str(out), environment=backend.environment)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "Nothing was written: there is no folder" in missing.stderr
    assert not out.exists()
    out.mkdir()
    other.write_text("of somebody else")
    (out / "report.html").symlink_to(other)
    (out / "report.md").write_text("of before\n" * 10_000)
    # Without an id the only open migration is meant.
    written = cli("report", "--out", str(out), environment=backend.environment)
    assert written.returncode == 0, written.stderr
    assert other.read_text() == "of somebody else"
    assert made["migration_id"] in read_page((out / "report.html").read_text(encoding="utf-8")).one("h1").text
    assert "of before" not in (out / "report.md").read_text(encoding="utf-8")
    unknown = cli("report", "m-000000", "--out", str(out), environment=backend.environment)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "there is no migration 'm-000000'" in unknown.stderr
    assert "Traceback" not in unknown.stderr
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "report.md"]

"""Does a person see in a real browser what the tools answered, and do the buttons do what they say, by keyboard and whatever the host answers?"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from qdrant_model_migration.tools import TOOLS
from qdrant_model_migration.tools.dashboard import URI, page
from tests.browser import installed
from tests.conftest import IS_CI, Backend
from tests.mcp.app_host import MIME_TYPE, AppHost, app_shown
from tests.mcp.hosts import Host, hosted, until
from tests.qdrant.seeds import NEW, OLD, opened, seed, text

pytestmark = pytest.mark.timeout(600)

MARKUP = "<img src=x onerror=\"document.body.textContent='taken over'\"><b>bold</b>"
POINTS = 1000
SLOW = 12
"""Points a second: the backfill lasts longer than what a test does meanwhile."""

PICTURES = os.environ.get("QDRANT_MIGRATION_TEST_PICTURES")
"""A folder that what was seen is kept in, for somebody who wants to look at it."""

needs_browser = pytest.mark.skipif(not IS_CI and installed() is None, reason="no Chromium: install Debian's chromium-headless-shell")


@asynccontextmanager
async def _begun(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, points: int = POINTS) -> AsyncIterator[tuple[Host, str]]:
    """A host with a migration whose target was created; texts hold markup."""
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "qdrant")}, version=None)

    def written(n: int) -> str:
        return f"{MARKUP} {text(n)}"

    async with opened(backend, monkeypatch) as context:
        await seed(context, name, points=points, payload=lambda n: {"text": written(n)}, embedded=written)
    async with hosted(backend.environment) as host:
        made = await host.call(
            "create_target", collection=name, strategy="new_collection", model=NEW, text_field="text", current_model=OLD, writes="frozen"
        )
        yield host, made["migration_id"]


async def _pictured(shown: AppHost, name: str) -> None:
    if PICTURES:
        await anyio.sleep(0.3)
        await shown.page.picture(Path(PICTURES) / f"{name}.png")


def test_the_page_keeps_to_itself_and_only_two_tools_show_it() -> None:
    html = page()
    assert html.count("<script>") == html.count("<style>") == 1
    assert "/* style.css */" not in html
    assert not [part for part in ("style.css", "script.js", "comparison.js") if f"/* {part} */" in html]
    assert "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'" in html
    # The name of SVG's namespace is no address that anything is fetched from.
    assert re.findall(r"https?://[^\s\"'`]+", html) == ["http://www.w3.org/2000/svg"]
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\bsrc=|<link|fetch\(|XMLHttpRequest|WebSocket", html
    )
    assert {spec.name for spec in TOOLS if spec.is_shown} == {"compare_models", "migration_status"}


async def test_hosts_are_told_of_the_app_and_others_get_the_same_answers() -> None:
    async with hosted({}) as host:
        tools = {t.name: t for t in (await host.client.list_tools()).tools}
        assert {name: t.meta for name, t in tools.items() if t.meta} == {
            "compare_models": {"ui": {"resourceUri": URI}},
            "migration_status": {"ui": {"resourceUri": URI}},
        }
        assert "io.modelcontextprotocol/ui" in (host.client.server_capabilities.extensions or {})
        listed = {r.uri: r.mime_type for r in (await host.client.list_resources()).resources}
        assert listed[URI] == MIME_TYPE
        answer = await host.call("migration_status")
        assert answer["phase"] == "none"


@needs_browser
async def test_a_migration_is_followed_paused_and_resumed_by_keyboard(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with _begun(tmp_path, name, monkeypatch) as (host, me), app_shown(host, tmp_path / "browser", is_dark=True) as shown:
        await host.call("start_backfill", migration_id=me, points_per_second=SLOW)
        await shown.show("migration_status", migration_id=me, wait_seconds=1)
        await shown.until("!document.getElementById('migration').hidden")
        assert await shown.text("#migration-title") == f"Migration {me}"
        # Nobody calls the tool any more: it looks by itself.
        before = await shown.text("#reading")
        await shown.until(f"document.getElementById('reading').textContent !== {before!r}")
        assert {name for name, _ in shown.asked} == {"migration_status"}
        await _pictured(shown, "dashboard-dark")

        # A look that was asked for before the click, and whose answer comes after that of the click, is old news.
        late, slow = anyio.Event(), anyio.Event()
        shown.held["migration_status"] = late
        looks = len(shown.asked)
        await until(lambda: len(shown.asked) > looks)
        shown.held = {"control_backfill": slow}
        for _ in range(10):
            await shown.page.press("Tab")
            if await shown.page.inside("document.activeElement.id") == "toggle":
                break
        assert await shown.text("#toggle") == "Pause"
        await shown.page.press("Enter")
        await shown.until("document.getElementById('toggle').disabled && document.getElementById('again').disabled")
        assert await shown.page.inside("document.getElementById('controls').getAttribute('aria-busy')") == "true"
        assert await shown.text("#said") == "Pausing …"
        # What is pressed meanwhile reaches nobody, and the button shows it.
        await shown.page.press("Enter")
        slow.set()
        await shown.until("!document.getElementById('toggle').disabled")
        assert await shown.text("#toggle") == "Resume"
        assert await shown.text("#said") == "Pausing: done."
        late.set()
        await anyio.sleep(0.5)
        assert await shown.text("#toggle") == "Resume"
        assert [arguments for tool, arguments in shown.asked if tool == "control_backfill"] == [{"migration_id": me, "action": "pause"}]
        assert (await host.call("migration_status", migration_id=me))["is_paused"] is True
        assert await shown.page.inside("document.activeElement.id") == "toggle"

        # The person says no to the host, which says so to the app.
        shown.held, shown.denied = {}, {"control_backfill": "The person does not want that."}
        await shown.page.press(" ")
        await shown.until("document.getElementById('problem').textContent && !document.getElementById('toggle').disabled")
        assert await shown.text("#problem") == "The person does not want that."
        assert await shown.text("#toggle") == "Resume"
        shown.denied = {}
        assert (await host.call("migration_status", migration_id=me))["is_paused"] is True

        await shown.page.press(" ")
        await shown.until("document.getElementById('toggle').textContent === 'Pause' && !document.getElementById('toggle').disabled")
        assert await shown.text("#problem") == ""
        assert (await host.call("migration_status", migration_id=me))["is_paused"] is False
        # The model learns what was done without it, and nothing of what was refused.
        await until(lambda: len(_told(shown)) == 2)
        assert ["pause migration" in told and me in told for told in _told(shown)] == [True, False]
        assert "resume migration" in _told(shown)[1]
        await host.call("control_backfill", migration_id=me, action="set_pace", points_per_second=0)
        await shown.until("document.getElementById('figures').innerText.includes('backfilled')", within_s=90)
        assert await shown.page.inside("document.getElementById('bar').value") == 1
        assert await shown.page.inside("document.getElementById('toggle').hidden")
        assert {name for name, _ in shown.asked} == {"migration_status", "control_backfill"}


def _told(shown: AppHost) -> list[str]:
    """What the app told the model."""
    return [given["content"][0]["text"] for method, given in shown.others if method == "ui/update-model-context"]


@needs_browser
@pytest.mark.parametrize("is_dark", [False, True])
async def test_a_comparison_is_shown_side_by_side_and_texts_stay_texts(
    is_dark: bool, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Half a text: the two models rank what holds it differently.
    queries = [{"text": f"{MARKUP} {' '.join(text(n).split()[:5])}", "relevant_ids": [str(n)]} for n in range(0, 60, 2)]
    async with (
        _begun(tmp_path, name, monkeypatch, points=60) as (host, me),
        app_shown(host, tmp_path / "browser", width=360, is_dark=is_dark) as shown,
    ):
        await host.call("start_backfill", migration_id=me)
        await host.backfilled(me)
        await host.whole("verify_target", migration_id=me)
        arguments = {"migration_id": me, "queries": queries, "id_field": "point"}
        found = await shown.show("compare_models", **arguments)
        while found["state"] == "running":
            assert await shown.text("#comparison-summary") == found["summary"]
            found = await shown.show("compare_models", **arguments)
        await shown.until("document.querySelectorAll('#metrics tbody tr').length > 0")
        rows = await shown.page.inside(
            "[...document.querySelectorAll('#metrics tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
        )
        answered = [m for m in found["metrics"] if m["model"] == NEW]
        assert [row[0] for row in rows] == [m["metric"] for m in answered]
        assert [row[2] for row in rows] == [f"{m['value']:.3f}" for m in answered]
        differing = [m for m in answered if m["difference"] is not None]
        assert [row[3] for row in rows if row[3]] == [f"{m['difference']:+.3f}" for m in differing]
        assert [row[4] for row in rows if row[3]] == [f"{m['ci_low']:+.3f} to {m['ci_high']:+.3f}" for m in differing]
        assert await shown.page.inside("document.querySelectorAll('#differences g').length") == len(differing)
        sides = await shown.text("#sides")
        assert OLD in sides
        assert NEW in sides
        await shown.page.inside("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        texts = await shown.text("#queries")
        assert texts.count(MARKUP) >= 2
        assert await shown.page.inside("document.querySelectorAll('img, b b, #queries b').length") == 0
        # Beside it the migration as it stands, which the app asked for by itself.
        await shown.until("!document.getElementById('migration').hidden")
        assert await shown.text("#migration-title") == f"Migration {me}"
        assert await shown.page.inside("document.documentElement.scrollWidth") == 360
        ground, ink = await shown.page.inside("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
        assert (_luminance(ink) > _luminance(ground)) is is_dark
        await _pictured(shown, f"comparison-360-{'dark' if is_dark else 'light'}")
        assert {tool for tool, _ in shown.asked} == {"migration_status"}


@needs_browser
async def test_candidates_on_a_sample_a_refusal_and_no_migration_are_shown_too(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "qdrant")}, version=None)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name)
    async with hosted(backend.environment) as host, app_shown(host, tmp_path / "browser") as shown:
        nothing = await shown.show("migration_status")
        await shown.until("document.getElementById('waiting').textContent.includes('No migration is open')")
        assert await shown.text("#waiting") == nothing["summary"]
        await shown.refused("compare_models", collection=name, models=[OLD])
        await shown.until("document.getElementById('waiting').textContent.includes('2 to 6')")
        models = [OLD, NEW, "builtin:hashing-32"]
        found = await shown.show("compare_models", collection=name, models=models, text_field="text")
        while found["state"] == "running":
            found = await shown.show("compare_models", **found["next_step"]["arguments"])
        await shown.until("document.querySelectorAll('#differences g').length === 6")
        assert await shown.page.inside("document.getElementById('waiting').hidden")
        sides = await shown.page.inside("[...document.querySelectorAll('#sides strong')].map((part) => part.textContent)")
        assert sides == models
        drawn = await shown.page.inside("[...document.querySelectorAll('#differences g')].map((part) => part.textContent)")
        differing = [m for m in found["metrics"] if m["difference"] is not None]
        assert drawn == [f"{m['metric']} {m['model']}"[:28] + f"{m['difference']:+.3f}" for m in differing]
        cells = "[...document.querySelectorAll('#candidates tbody tr')].map((row) => [...row.children].map((cell) => cell.textContent))"
        costs = [
            ("" if of is None else f"{of:,.0f}" for of in (c["documents_per_second"], c["usd_per_million_points"], c["bytes_per_point"]))
            for c in found["candidates_table"]
        ]
        shown_costs = [(row[0], *row[4:]) for row in await shown.page.inside(cells)]
        assert shown_costs == [(model, *cost) for model, cost in zip(models, costs, strict=True)]
        assert {row[6] for row in await shown.page.inside(cells)} == {f"{4 * int(model.rpartition('-')[2]):,}" for model in models}
        assert await shown.page.inside("document.getElementById('migration').hidden")
        assert shown.asked == []


def _luminance(colour: str) -> float:
    red, green, blue = (int(part) for part in re.findall(r"\d+", colour)[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue

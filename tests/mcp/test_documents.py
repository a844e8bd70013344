"""Does every command in the documents do what the page says? Each is run, in the order of its page, or stands in the list of those that are not, with the reason."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qdrant_model_migration.cli import app
from tests.mcp.test_cli import Person, cli, on, seeded
from tests.qdrant.seeds import NEW, OLD
from tests.servers import QdrantServer

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "qdrant-model-migration"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "hosts").glob("*.md"))]
WALKED = ("command-line.md", "cutover.md", "kept.md", "observability.md", "rollback.md")
"""Pages whose commands are run one after another here."""
ELSEWHERE = {
    "demo": "tests/mcp/test_demo.py",
    "doctor": "tests/unit/test_doctor.py and the walk",
    "config": "tests/unit/test_hosts.py",
    "run": "tests/mcp/test_cli_run.py",
}
"""Commands of this program that other tests run."""
NOT_RUN = {
    "pip": "installs; .ci/run and tests/unit/test_distribution.py do it",
    "pipx": "installs; docs/hosts tells what was tried",
    "uvx": "installs; docs/hosts tells what was tried",
    "python": "runs this very suite, or a benchmark",
    "docker": "no container engine in CI; docs/hosts/other.md says so",
    "bash": "is CI itself",
}


def commands(page: Path) -> Iterator[list[str]]:
    """The commands of a page's shell blocks, in words; comments and continued lines as a shell has them."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                words = shlex.split(part, comments=True)
                if words:
                    yield words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_run_somewhere(page: Path) -> None:
    for words in commands(page):
        if words[0] == PROGRAM:
            assert page.name in WALKED or words[1] in ELSEWHERE, words
            # It is spelt as the command line has it, here and now.
            known = CliRunner().invoke(app, [words[1], "--help"]).stdout
            assert not [word for word in words if word.startswith("--") and word not in known], words
        else:
            assert words[0] in NOT_RUN, words


class Reader:
    """Types what a page says, with the names of this test for those of the page."""

    def __init__(self, person: Person, name: str) -> None:
        self._person = person
        self._names = {"docs": name, "MODEL": NEW, "CODE": ""}

    def type(self, words: list[str], folder: Path) -> dict[str, object]:
        typed = [str(folder) if word == "." else self._names.get(word, word) for word in words[1:]]
        if words[1] == "report":
            self._person.run(*typed)
            return {}
        done = cli(*typed, "--json", environment=self._person.environment)
        assert done.returncode == 0, f"{typed}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        found: object = json.loads(done.stdout)
        if not isinstance(found, dict):
            return {}
        self._names |= {"ID": str(found.get("migration_id") or self._names.get("ID", ""))}
        if isinstance(plan := found.get("plan"), dict):
            self._names["CODE"] = str(plan["code"])
        return found


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_the_pages_can_be_followed(server_1_17: QdrantServer, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first look to the swap, the way back, forward again, and the end of the old collection."""
    person = await seeded(on(server_1_17, name), monkeypatch, name)
    reader = Reader(person, name)
    pages = {page: list(commands(ROOT / "docs" / page)) for page in WALKED}
    walk = [words for words in pages["command-line.md"] if words[1] not in ("run", "status", "control", "finish")]
    followed = [words for words in pages["command-line.md"] if words[1] in ("status", "control")]
    told: dict[str, object] = {}
    for words in walk:
        told = reader.type([*words, "--current-model", OLD] if words[1] == "create-target" else words, tmp_path)
        if words[1] == "backfill":
            for other in followed:
                reader.type(other, tmp_path)
    assert told["phase"] == "cut_over"
    for words in pages["kept.md"] + pages["observability.md"]:
        reader.type(words, tmp_path)
    assert (tmp_path / "report.html").is_file()
    back = [words for words in pages["rollback.md"] if words[1] == "swap"]
    for words in back:
        told = reader.type(words, tmp_path)
    assert told["current"] == f"{name}-a"
    for words in (["", "backfill", "ID", "--wait"], ["", "verify", "ID"], *pages["cutover.md"]):
        told = reader.type(words, tmp_path)
    assert told["current"] != f"{name}-a"
    for words in (words for words in pages["rollback.md"] if words[1] == "finish"):
        told = reader.type(words, tmp_path)
    assert told["phase"] == "finished"
    assert [c["name"] for c in person.ask("inspect", "--name-filter", name)["collections"]] == [
        reader.type(["", "status", "ID"], tmp_path)["target"]
    ]

"""Which files does a name in an argument reach? Regular ones inside the allowed directories, of a bounded size, and no others."""

from __future__ import annotations

import gzip
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pyarrow as pa
import pytest
from pyarrow import parquet

from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations import texts_rows
from qdrant_model_migration.operations.queries import MAX_FILE_BYTES, read_queries
from qdrant_model_migration.operations.texts_file import describe_texts_file
from qdrant_model_migration.settings import Connection, Settings
from tests.conftest import Backend
from tests.qdrant.seeds import NEW, OLD, opened, seed
from tests.security.inside import inside
from tests.security.said import problem_of_refusal

SECRET = "the-secret-line-of-another-folder"
ROW = json.dumps({"id": 1, "text": SECRET}) + "\n"


def _settings(*folders: Path) -> Settings:
    return Settings(
        connections={"default": Connection(name="default", url="http://host")},
        allowed_directories=tuple(folder.resolve() for folder in folders),
        log_directory=Path("/nowhere"),
    )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Path, list[str]]]:
    """(allowed folder, names that must not be read). Beside it lies a folder that is not allowed, with the same kind of files."""
    allowed, other = tmp_path / "allowed", tmp_path / "allowed-not"
    for folder in (allowed, other, allowed / "inner"):
        folder.mkdir()
    for ending in ("jsonl", "tsv"):
        (other / f"secret.{ending}").write_text(ROW)
        (allowed / f"good.{ending}").write_text(json.dumps({"id": 1, "text": "wing"}) + "\n")
    links = {
        "link.jsonl": other / "secret.jsonl",
        "folder-link.jsonl": other,
        "proc.jsonl": Path("/proc/self/environ"),
        "self.jsonl": allowed / "self.jsonl",
        "ring-a.jsonl": allowed / "ring-b.jsonl",
        "ring-b.jsonl": allowed / "ring-a.jsonl",
        "dangling.jsonl": allowed / "nowhere.jsonl",
        "null.jsonl": Path("/dev/null"),
        "tty.jsonl": Path("/dev/tty"),
        "fd.jsonl": Path("/dev/fd/0"),
    }
    for name, to in links.items():
        (allowed / name).symlink_to(to)
    (allowed / "inner" / "up").symlink_to(other)
    os.mkfifo(allowed / "fifo.jsonl")
    (allowed / "folder.jsonl").mkdir()
    listener = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    # A socket's path may be a hundred characters long.
    os.chdir(allowed)
    listener.bind("socket.jsonl")
    os.chdir(here)
    names = [
        *links,
        "fifo.jsonl",
        "folder.jsonl",
        "socket.jsonl",
        "",
        ".",
        "..",
        "inner/up/secret.jsonl",
        "../allowed-not/secret.jsonl",
        "inner/../../allowed-not/secret.jsonl",
        "./../allowed-not/./secret.jsonl",
        str(other / "secret.jsonl"),
        f"{allowed}-not/secret.jsonl",
        f"//{other}/secret.jsonl",
        f"file://{other}/secret.jsonl",
        f"{allowed}/../allowed-not/secret.jsonl",
        "~/secret.jsonl",
        "$HOME/secret.jsonl",
        "secret.jsonl\0",
        "good.jsonl\0.parquet",
        "x" * 300 + ".jsonl",
        "x/" * 2_000 + "good.jsonl",
        "\ud800.jsonl",
        "/proc/self/environ",
        "/proc/self/fd/0",
        "/proc/self/root" + str(other / "secret.jsonl"),
        "/dev/stdin",
        "/etc/passwd",
        "..\\allowed-not\\secret.jsonl",
        "%2e%2e/allowed-not/secret.jsonl",
    ]
    yield allowed, names
    listener.close()


def _refusal(act: Callable[[], object]) -> str:
    with pytest.raises(Refused) as caught:
        act()
    return str(caught.value)


def test_nothing_outside_the_allowed_directories_is_opened(place: tuple[Path, list[str]]) -> None:
    """Links, `..`, absolute paths, pipes, devices, sockets, folders, the kernel's own files, and names that no file can have."""
    allowed, names = place
    settings = _settings(allowed)
    for name in names:
        said = _refusal(lambda name=name: settings.allowed_file(name))  # type: ignore[misc]
        assert "not a file inside an allowed directory" in said, name
        for act in (
            lambda name=name: describe_texts_file(settings, name if name.endswith("jsonl") else name + ".jsonl"),
            lambda name=name: anyio.run(read_queries, settings, None, name, None),
            lambda name=name: anyio.run(read_queries, settings, None, "good.jsonl", name),
        ):
            said = _refusal(act)
            assert SECRET not in said
            assert "root:" not in said
    assert settings.allowed_file("good.jsonl") == (allowed / "good.jsonl").resolve()
    assert settings.allowed_file(str(allowed / "inner" / ".." / "good.jsonl")) == (allowed / "good.jsonl").resolve()


def test_without_allowed_directories_no_file_is_read(place: tuple[Path, list[str]]) -> None:
    allowed, names = place
    for name in ("good.jsonl", str(allowed / "good.jsonl"), *names):
        assert "no directory is allowed" in _refusal(lambda name=name: _settings().allowed_file(name))  # type: ignore[misc]


def test_the_kernels_files_are_not_read_even_where_everything_is_allowed() -> None:
    """A person who allows the whole disk did not mean the environment of a process, with the keys in it."""
    settings = _settings(Path("/"))
    for name in ("/proc/self/environ", f"/proc/{os.getpid()}/cmdline", "/proc/self/../self/environ", "/sys/kernel/notes", "/dev/null"):
        assert "not a file inside" in _refusal(lambda name=name: settings.allowed_file(name))  # type: ignore[misc]


def test_a_file_that_is_exchanged_between_the_look_and_the_opening_is_not_read(
    place: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a link to elsewhere, and for a pipe, which would be waited for."""
    allowed, _ = place
    settings = _settings(allowed)
    open_file = os.open
    for exchanged in (lambda path: path.symlink_to("/etc/passwd"), os.mkfifo):
        victim = allowed / "victim.jsonl"
        victim.write_text(ROW)

        def racing(path: Path, flags: int, exchanged: Callable[[Path], object] = exchanged) -> int:
            os.unlink(path)
            exchanged(path)
            return open_file(path, flags)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", racing)
            with pytest.raises(Refused, match="was not read"), settings.opened_file("victim.jsonl") as stream:
                stream.read()
        victim.unlink()


def test_a_bomb_of_gzip_is_left_when_it_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines are short and right; only their number is hostile. What texts come to, and small files, pass."""
    monkeypatch.setattr(texts_rows, "FREE_BYTES", 1024 * 1024)
    rows = b"".join(b'{"id": %d, "text": "%s"}\n' % (n, b"wing " * 2_000) for n in range(3_000))
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(rows))
    said = _refusal(lambda: describe_texts_file(_settings(tmp_path), "bomb.jsonl.gz"))
    assert "unpack to more than" in said
    assert "200 times" in said
    (tmp_path / "plain.jsonl").write_bytes(rows[: rows.index(b"\n", 2_000_000) + 1])
    assert describe_texts_file(_settings(tmp_path), "plain.jsonl").rows > 100
    (tmp_path / "small.jsonl.gz").write_bytes(gzip.compress(rows[: rows.index(b"\n", 900_000) + 1]))
    assert describe_texts_file(_settings(tmp_path), "small.jsonl.gz").rows > 50
    texts = b"".join(json.dumps({"id": n, "text": os.urandom(200).hex()}).encode() + b"\n" for n in range(10_000))
    (tmp_path / "texts.jsonl.gz").write_bytes(gzip.compress(texts))
    assert describe_texts_file(_settings(tmp_path), "texts.jsonl.gz").rows == 10_000


def test_a_line_of_a_packed_file_is_never_held_whole_when_it_is_endless(tmp_path: Path) -> None:
    (tmp_path / "line.jsonl.gz").write_bytes(gzip.compress(b'{"id": 1, "text": "' + b"x" * (40 * 1024 * 1024)))
    assert "longer than 16 MiB" in _refusal(lambda: describe_texts_file(_settings(tmp_path), "line.jsonl.gz"))


def test_a_table_that_repeats_one_text_is_left_when_it_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet keeps a repeated text once: a file of some kilobytes may be gigabytes of rows."""
    monkeypatch.setattr(texts_rows, "FREE_BYTES", 1024 * 1024)
    table = pa.table({"id": list(range(4_000)), "text": ["wing " * 4_000] * 4_000})
    parquet.write_table(table, tmp_path / "bomb.parquet", row_group_size=500)
    assert (tmp_path / "bomb.parquet").stat().st_size < 300_000
    assert "unpack to more than" in _refusal(lambda: describe_texts_file(_settings(tmp_path), "bomb.parquet"))


def test_files_of_queries_are_bounded_by_their_size_and_their_lines(tmp_path: Path) -> None:
    (tmp_path / "large.jsonl").write_bytes(b" " * (MAX_FILE_BYTES + 1))
    (tmp_path / "many.jsonl").write_text("".join(f'{{"id": {n}, "text": "wing"}}\n' for n in range(10_001)))
    (tmp_path / "long.jsonl").write_text(json.dumps({"id": 1, "text": "x" * 8_001}))
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    for name, says in (
        ("large", "larger than 50 MB"),
        ("many", "more than 10,000"),
        ("long", "8,001 characters"),
        ("deep", "nested too deeply"),
    ):
        said = _refusal(lambda name=name: anyio.run(read_queries, _settings(tmp_path), None, f"{name}.jsonl", None))  # type: ignore[misc]
        assert says in said


async def test_no_tool_tells_what_lies_outside(place: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every argument of every tool that names a file; whether the file exists elsewhere makes no difference to the answer."""
    allowed, names = place
    environment = {"QDRANT_PATH": str(tmp_path / "qdrant")}
    async with opened(Backend(name="embedded", environment=environment, version=None), monkeypatch) as context:
        await seed(context, "docs")
    async with inside({**environment, "QDRANT_MIGRATION_ALLOWED_DIRECTORIES": str(allowed)}) as host:
        calls = (
            ("create_target", "texts_file", {"collection": "docs", "strategy": "new_collection", "model": NEW}),
            ("compare_models", "queries_file", {"collection": "docs", "models": [OLD, NEW]}),
            ("compare_models", "qrels_file", {"collection": "docs", "models": [OLD, NEW], "queries_file": "good.jsonl"}),
        )
        for tool, argument, more in calls:
            for name in names:
                if len(name) > 500:
                    continue
                said = await host.refused(tool, **{**more, argument: name})
                assert problem_of_refusal(said) is None, said
                assert SECRET not in said
            there = await host.refused(tool, **{**more, argument: "../allowed-not/secret.jsonl"})
            absent = await host.refused(tool, **{**more, argument: "../allowed-not/secrex.jsonl"})
            assert there.replace("secret.jsonl", "secrex.jsonl") == absent

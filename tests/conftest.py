"""The fixtures that every test may use: real servers, an environment without surprises, models and corpora."""

from __future__ import annotations

import gc
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings

from tests.clusters import QdrantCluster
from tests.servers import RELEASES, QdrantServer, ServerUnavailable, delete_collections
from tests.servers import request as rest

VERSIONS = tuple(RELEASES)
IS_CI = os.environ.get("CI", "").lower() in ("1", "true")
OWN_URL = os.environ.get("QDRANT_TEST_URL", "").rstrip("/")
OWN_KEY = os.environ.get("QDRANT_TEST_API_KEY") or None
OWN_GRPC_PORT = os.environ.get("QDRANT_TEST_GRPC_PORT", "6334")
ASSETS = Path(os.environ.get("QDRANT_MIGRATION_TEST_ASSETS") or Path(__file__).resolve().parents[2] / "shared" / "assets")

_SCRUBBED = (
    "QDRANT_",
    "FASTEMBED_",
    "OPENAI_",
    "AZURE_",
    "COHERE_",
    "CO_API_",
    "VOYAGE_",
    "GOOGLE_",
    "GEMINI_",
    "MISTRAL_",
    "OLLAMA_",
    "HF_",
    "OTEL_",
)
_SCRUBBED_ENDINGS = ("_API_KEY", "_PROXY", "_proxy")
_SERVER_FIXTURES = frozenset(
    {"server_1_16", "server_1_17", "server", "new_server", "fresh_server", "shared_cluster", "cluster", "new_cluster"}
)
_EVERY_QDRANT = frozenset({"server", "fresh_server", "any_qdrant"})
"""Fixtures that run a test once for each Qdrant."""
_ASSET_FIXTURES = frozenset({"assets", "cranfield", "asset_models"})

# Read by huggingface_hub when it is first imported, so it cannot wait for a fixture. No test downloads a model.
os.environ["HF_HUB_OFFLINE"] = "1"

# A busy machine is no failure: no test may depend on speed.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set the markers `server` and `assets` from the fixtures that a test uses, and drop combinations that `only` and `in_turn` exclude.

    Files come in the order of the longest time that one of their tests is granted: one that takes minutes must not be begun when the others are over.
    """
    items[:] = _in_turn([item for item in items if _exists(item)])
    granted: dict[Path, float] = {}
    for item in items:
        granted[item.path] = max(granted.get(item.path, 0.0), _granted_s(item))
    items.sort(key=lambda item: -granted[item.path])
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        if used & _SERVER_FIXTURES:
            item.add_marker(pytest.mark.server)
        if used & _ASSET_FIXTURES:
            item.add_marker(pytest.mark.assets)


def _granted_s(item: pytest.Item) -> float:
    """The time-out that a test states for itself, and a little for `slow`."""
    stated = item.get_closest_marker("timeout")
    return (float(stated.args[0]) if stated is not None else 0.0) + (30.0 if item.get_closest_marker("slow") is not None else 0.0)


def _exists(item: pytest.Item) -> bool:
    """Whether the parameters of `item` go together, so that a skip always means that something was not tested."""
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return all(mark.kwargs["where"](parameters) for mark in item.iter_markers("only"))


def _in_turn(items: list[pytest.Item]) -> list[pytest.Item]:
    """Of a test marked `in_turn` one Qdrant each, the next one for the next test of the file; every one with QDRANT_TEST_MATRIX=full."""
    if os.environ.get("QDRANT_TEST_MATRIX") == "full":
        return items
    variants: dict[Path, dict[tuple[object, ...], list[pytest.Item]]] = {}
    for item in items:
        if item.get_closest_marker("in_turn") is not None and (key := _apart_from_qdrant(item)) is not None:
            variants.setdefault(item.path, {}).setdefault(key, []).append(item)
    kept = {id(group[turn % len(group)]) for groups in variants.values() for turn, group in enumerate(groups.values())}
    dropped = {id(item) for groups in variants.values() for group in groups.values() for item in group} - kept
    return [item for item in items if id(item) not in dropped]


def _apart_from_qdrant(item: pytest.Item) -> tuple[object, ...] | None:
    """What a test is called without the Qdrant that it runs on; None where it is not one of several."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return None
    others = {name: repr(value) for name, value in item.callspec.params.items() if name not in _EVERY_QDRANT}
    return None if len(others) == len(item.callspec.params) else (item.originalname, *sorted(others.items()))


def pytest_collection_finish() -> None:
    """What is loaded by now stays: looking through it again and again took a tenth of the processor's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run coroutines on asyncio, which is what the server runs on."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _scrubbed_environment() -> Iterator[None]:
    """Nothing of the person's settings, keys or proxies reaches a test or a process that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in list(os.environ):
            if variable.startswith(_SCRUBBED) or variable.endswith(_SCRUBBED_ENDINGS):
                patch.delenv(variable)
        patch.setenv("HF_HUB_OFFLINE", "1")
        # Each process of the run, and each worker that it starts, would keep every core spinning: a third more for the same texts.
        patch.setenv("QDRANT_MIGRATION_EMBEDDING_THREADS", "1")
        yield


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory, so that the default database and the logs of a test are its own."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("QDRANT_MIGRATION_LOG_DIRECTORY", str(folder / "logs"))
    return folder


@pytest.fixture
def name() -> str:
    """A short prefix for the names of this test's collections; on a server, collections that hold it are deleted afterwards."""
    return f"t{secrets.token_hex(4)}"


def _unavailable(reason: str) -> BaseException:
    """What to raise where there is no server: a failure in CI, a skip elsewhere."""
    if IS_CI:
        return pytest.fail.Exception(f"No Qdrant server to test against, and CI=true allows no skip: {reason}.", pytrace=False)
    return pytest.skip.Exception(f"no Qdrant server to test against: {reason}")


Started = TypeVar("Started", QdrantServer, QdrantCluster)


def _running(make: Callable[[], Started]) -> Iterator[Started]:
    try:
        made = make()
    except ServerUnavailable as error:
        raise _unavailable(str(error)) from None
    try:
        made.start()
        yield made
    finally:
        made.stop()
        # Write-ahead logs are preallocated; pytest would keep them for three runs. The server's log stays.
        made.discard()


@pytest.fixture(scope="session")
def server_1_16(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantServer]:
    """Qdrant 1.16.3, shared by the whole run: never stop it, and use only collections of your own `name`."""
    yield from _running(lambda: QdrantServer("1.16.3", tmp_path_factory.mktemp("qdrant-1.16.3")))


@pytest.fixture(scope="session")
def server_1_17(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantServer]:
    """Qdrant 1.17.0, shared by the whole run: never stop it, and use only collections of your own `name`."""
    yield from _running(lambda: QdrantServer("1.17.0", tmp_path_factory.mktemp("qdrant-1.17.0")))


def _shared(request: pytest.FixtureRequest, version: str) -> QdrantServer:
    found = request.getfixturevalue({"1.16.3": "server_1_16", "1.17.0": "server_1_17"}[version])
    assert isinstance(found, QdrantServer)
    return found


@pytest.fixture(params=VERSIONS)
def server(request: pytest.FixtureRequest, name: str) -> Iterator[QdrantServer]:
    """Each shared server in turn; what holds `name` is deleted afterwards."""
    found = _shared(request, request.param)
    yield found
    delete_collections(found.url, name)


NewServer = Callable[..., QdrantServer]
"""`new_server(version, api_key=…, read_only_key=…, settings=…)`: a started server of the test's own."""


@pytest.fixture
def new_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewServer]:
    """Starts servers that the test may stop, kill and restart; they are gone after it."""
    running: list[Iterator[QdrantServer]] = []

    def start(
        version: str, *, api_key: str | None = None, read_only_key: str | None = None, settings: Mapping[str, str] | None = None
    ) -> QdrantServer:
        folder = tmp_path_factory.mktemp(f"qdrant-{version}")
        steps = _running(lambda: QdrantServer(version, folder, api_key=api_key, read_only_key=read_only_key, settings=settings))
        started = next(steps)
        running.append(steps)
        return started

    yield start
    for steps in reversed(running):
        next(steps, None)


@pytest.fixture(params=VERSIONS)
def fresh_server(request: pytest.FixtureRequest, new_server: NewServer) -> QdrantServer:
    """A server of this test's own, of each version in turn: it may be stopped, killed and restarted."""
    return new_server(request.param)


CLUSTER_VERSION = "1.17.0"


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantCluster]:
    """Two peers of 1.17.0, shared by the whole run: never stop one of them, and use only collections of your own `name`."""
    yield from _running(lambda: QdrantCluster(CLUSTER_VERSION, tmp_path_factory.mktemp("qdrant-cluster")))


@pytest.fixture
def cluster(shared_cluster: QdrantCluster, name: str) -> Iterator[QdrantCluster]:
    """The shared two-peer cluster; what holds `name` is deleted afterwards."""
    yield shared_cluster
    delete_collections(shared_cluster.first.url, name)


NewCluster = Callable[..., QdrantCluster]
"""`new_cluster(peers=2)`: a started cluster of the test's own."""


@pytest.fixture
def new_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewCluster]:
    """Starts clusters whose peers the test may stop, kill and restart; they are gone after it."""
    running: list[Iterator[QdrantCluster]] = []

    def start(*, peers: int = 2) -> QdrantCluster:
        folder = tmp_path_factory.mktemp("qdrant-cluster")
        steps = _running(lambda: QdrantCluster(CLUSTER_VERSION, folder, peers=peers))
        started = next(steps)
        running.append(steps)
        return started

    yield start
    for steps in reversed(running):
        next(steps, None)


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A Qdrant as a user configures it: the variables to set, its name for messages, and its version (None: embedded)."""

    name: str
    environment: dict[str, str]
    version: str | None

    @property
    def is_embedded(self) -> bool:
        return self.version is None


_BACKENDS = [
    pytest.param("embedded"),
    *(pytest.param(version, marks=pytest.mark.server) for version in VERSIONS),
    *([pytest.param("own", marks=pytest.mark.server)] if OWN_URL else []),
]


@pytest.fixture(params=_BACKENDS)
def any_qdrant(request: pytest.FixtureRequest, name: str, tmp_path: Path) -> Iterator[Backend]:
    """The embedded database, both servers, and the server at QDRANT_TEST_URL if one is named; with a ledger of the test's own.

    Nothing is set yet: give `environment` to a child process, or set it with monkeypatch.
    """
    ledger = {"QDRANT_MIGRATION_LEDGER": f"_{name}_migrations"}
    kind: str = request.param
    if kind == "embedded":
        yield Backend(name=kind, environment={"QDRANT_PATH": str(tmp_path / "qdrant"), **ledger}, version=None)
    elif kind == "own":
        key = {} if OWN_KEY is None else {"QDRANT_API_KEY": OWN_KEY}
        version = _own_version()
        yield Backend(name=kind, environment={"QDRANT_URL": OWN_URL, "QDRANT_GRPC_PORT": OWN_GRPC_PORT, **key, **ledger}, version=version)
        delete_collections(OWN_URL, name, OWN_KEY)
    else:
        shared = _shared(request, kind)
        yield Backend(name=f"server {kind}", environment={**shared.environment, **ledger}, version=kind)
        delete_collections(shared.url, name)


def _own_version() -> str:
    try:
        version = rest(OWN_URL, api_key=OWN_KEY)["version"]
    except OSError as error:
        raise _unavailable(f"the server that QDRANT_TEST_URL names did not answer ({type(error).__name__})") from None
    assert isinstance(version, str)
    return version


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder of the models and corpora: `../shared/assets` beside the repository, or QDRANT_MIGRATION_TEST_ASSETS."""
    if not (ASSETS / "models").is_dir() or not (ASSETS / "datasets").is_dir():
        pytest.skip("the models and corpora are not there: set QDRANT_MIGRATION_TEST_ASSETS to the folder that holds models/ and datasets/")
    return ASSETS


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text of the corpus. Some are empty in the original."""

    id: int
    title: str
    body: str

    @property
    def text(self) -> str:
        """What is embedded."""
        return f"{self.title}\n{self.body}"


@dataclass(frozen=True)
class Cranfield:
    """1,400 abstracts on aerodynamics, 225 questions, and which abstracts answer them."""

    folder: Path

    @cached_property
    def documents(self) -> list[Document]:
        return [
            Document(id=int(row["id"]), title=row["title"], body=row["text"])
            for row in map(json.loads, (self.folder / "corpus.jsonl").read_text().splitlines())
        ]

    @cached_property
    def queries(self) -> dict[str, str]:
        """Text of each question by its id."""
        return {row["id"]: row["text"] for row in map(json.loads, (self.folder / "queries.jsonl").read_text().splitlines())}

    @cached_property
    def qrels(self) -> dict[str, dict[str, int]]:
        """Grade (1 to 4) by question and document id; ids are texts, as in the files."""
        grades: dict[str, dict[str, int]] = {}
        for line in (self.folder / "qrels.tsv").read_text().splitlines()[1:]:
            query, document, grade = line.split("\t")
            grades.setdefault(query, {})[document] = int(grade)
        return grades


@pytest.fixture(scope="session")
def cranfield(assets: Path) -> Cranfield:
    """The judged corpus; each part is read when it is first used."""
    return Cranfield(assets / "datasets" / "cranfield")


@pytest.fixture(scope="session")
def asset_models(assets: Path) -> str:
    """Value of QDRANT_MIGRATION_MODELS.

    Dense: minilm, minilm-int8, minilm-l2 (the weak, old one), minilm-256, minilm-1152, minilm-cls. Sparse: bm25. Multivector: colbert.
    """
    models = assets / "models"

    def pooled(folder: str, pooling: str = "mean") -> dict[str, object]:
        return {"path": str(models / folder), "pooling": pooling, "normalize": True, "dimensions": 384}

    def head(folder: str, output: str, dimensions: int) -> dict[str, object]:
        return {"path": str(models / folder), "output_name": output, "pooling": "none", "normalize": True, "dimensions": dimensions}

    return json.dumps(
        {
            "minilm": pooled("all-MiniLM-L6-v2"),
            "minilm-int8": pooled("all-MiniLM-L6-v2-int8"),
            "minilm-l2": head("minilm-l2-int8", "sentence_embedding", 384),
            "minilm-256": head("minilm-multihead-int8", "sentence_embedding_256", 256),
            "minilm-1152": head("minilm-multihead-int8", "sentence_embedding_1152", 1152),
            "minilm-cls": pooled("all-MiniLM-L6-v2-int8", "cls"),
            "bm25": {"model": "Qdrant/bm25", "path": str(models / "bm25")},
            "colbert": {"model": "answerdotai/answerai-colbert-small-v1", "path": str(models / "colbert-l2-int8")},
        }
    )

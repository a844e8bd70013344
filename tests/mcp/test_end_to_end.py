"""Does a real collection reach its new model while people search it? Cranfield, through the stdio server, on both servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ir_measures
import numpy as np
import numpy.typing as npt
import pytest
from ir_measures import R, nDCG

from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.embedders.catalogue import Catalogue
from qdrant_model_migration.environment import read_settings
from tests.conftest import VERSIONS, Cranfield
from tests.mcp.hosts import Host, hosted, tokens, workers
from tests.servers import QdrantServer
from tests.servers import request as rest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

TEMPLATE = "{title}\n{text}"
MEASURED_RECALL = {"minilm-l2": 0.204, "minilm": 0.414, "minilm-1152": 0.414}
"""recall@10 as the README of the assets has it, measured by another program."""

Matrix = npt.NDArray[np.float32]


class Embedded:
    """Documents and questions embedded by the test itself, each model once for the whole run."""

    def __init__(self, cranfield: Cranfield, models: str) -> None:
        self.cranfield = cranfield
        self._models = models
        self._documents: dict[str, Matrix] = {}
        self._queries: dict[str, Matrix] = {}

    @property
    def filled(self) -> list[int]:
        """Positions of the documents that hold a text; two of the corpus do not."""
        return [i for i, d in enumerate(self.cranfield.documents) if d.text.strip()]

    async def of(self, model: str) -> tuple[Matrix, Matrix]:
        """(one row a document with a text, one row a question)."""
        if model not in self._documents:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("QDRANT_MIGRATION_MODELS", self._models)
                embedder = await Catalogue(read_settings()).load(model)
            texts = [self.cranfield.documents[i].text for i in self.filled]
            order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
            rows: dict[int, Matrix] = {}
            for start in range(0, len(order), 64):
                part = order[start : start + 64]
                rows.update(zip(part, await embedder.embed([texts[i] for i in part], Side.DOCUMENT), strict=True))
            self._documents[model] = np.stack([rows[i] for i in range(len(texts))])
            self._queries[model] = await embedder.embed(list(self.cranfield.queries.values()), Side.QUERY)
        return self._documents[model], self._queries[model]

    async def quality(self, model: str) -> dict[str, float]:
        """nDCG@10 and recall@10 by exact search in memory."""
        documents, queries = await self.of(model)
        scores = _normal(queries) @ _normal(documents).T
        ids = [str(self.cranfield.documents[i].id) for i in self.filled]
        run = {
            query: {ids[int(i)]: float(row[int(i)]) for i in np.argsort(-row)[:10]}
            for query, row in zip(self.cranfield.queries, scores, strict=True)
        }
        measured = ir_measures.calc_aggregate([nDCG @ 10, R @ 10], self.cranfield.qrels, run)
        return {"ndcg@10": measured[nDCG @ 10], "recall@10": measured[R @ 10]}


def _normal(rows: Matrix) -> Matrix:
    found: Matrix = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


@pytest.fixture(scope="session")
def embedded(cranfield: Cranfield, asset_models: str) -> Embedded:
    return Embedded(cranfield, asset_models)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One search of a reader: when, with which model, and what came of it."""

    at: float
    query: str
    model: str
    found: list[str]
    error: str | None = None


@dataclass
class Reader:
    """An app that searches on and on. One that resolves itself looks up collection and model with every query; the other never changes."""

    server: QdrantServer
    alias: str
    old_model: str
    vectors: dict[str, dict[str, list[float]]]
    """Model -> question -> its vector."""
    is_self_resolving: bool
    asked: list[Asked] = field(default_factory=list)
    pause_s: float = 0.15
    """Between two searches: less would take the cores from the embedding that is waited for."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        queries = list(self.vectors[self.old_model])
        number = 0
        while not self._stop.wait(self.pause_s):
            query = queries[number % len(queries)]
            number += 1
            model, found, error = self.old_model, list[str](), None
            try:
                model, collection = self._resolved() if self.is_self_resolving else (self.old_model, self.alias)
                body = {"query": self.vectors[model][query], "limit": 10}
                answer = rest(f"{self.server.url}/collections/{collection}/points/query", method="POST", body=body)
                found = [str(point["id"]) for point in answer["result"]["points"]]
            except (OSError, KeyError) as problem:
                error = repr(problem)
            self.asked.append(Asked(at=time.monotonic(), query=query, model=model, found=found, error=error))

    def _resolved(self) -> tuple[str, str]:
        """Model and collection from one look at the alias. The collection is searched by its name: a swap in between cannot part the two."""
        pointing = rest(f"{self.server.url}/aliases")["result"]["aliases"]
        collection: str = next(a["collection_name"] for a in pointing if a["alias_name"] == self.alias)
        config = rest(f"{self.server.url}/collections/{collection}")["result"]["config"]
        return config["metadata"]["model_migration"]["model"], collection

    def stop(self) -> None:
        self._stop.set()

    def wait_for_rounds(self, rounds: float) -> None:
        """Until so many more rounds of all questions were asked, one after another without a pause."""
        self.pause_s = 0.0
        goal = len(self.asked) + rounds * len(self.vectors[self.old_model])
        deadline = time.monotonic() + 120
        while len(self.asked) < goal:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def recall(self, qrels: dict[str, dict[str, int]], since: float, until: float = float("inf")) -> float:
        """Mean recall@10 of the searches in that time."""
        values = [len(qrels[a.query].keys() & set(a.found)) / len(qrels[a.query]) for a in self.asked if since <= a.at <= until]
        return sum(values) / len(values)


@contextmanager
def searching(*readers: Reader) -> Iterator[None]:
    threads = [threading.Thread(target=reader.run, daemon=True) for reader in readers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for reader in readers:
            reader.stop()
        for thread in threads:
            thread.join(15)


async def _filled(server: QdrantServer, name: str, embedded: Embedded, model: str) -> None:
    """The collection as an app keeps it: 1,400 points, two without a text and a vector, an index, provenance, an alias."""
    documents, _ = await embedded.of(model)
    url = f"{server.url}/collections/{name}"
    rest(
        url,
        method="PUT",
        body={
            "vectors": {"size": documents.shape[1], "distance": "Cosine"},
            "metadata": {"model_migration": {"model": model, "dimensions": documents.shape[1]}, "owner": "search team"},
        },
    )
    rest(f"{url}/index?wait=true", method="PUT", body={"field_name": "year", "field_schema": "integer"})
    rows = dict(zip(embedded.filled, documents, strict=True))
    points = [
        {
            "id": d.id,
            "vector": rows[i].tolist() if i in rows else {},
            "payload": {"title": d.title, "text": d.body, "year": 1950 + d.id % 15},
        }
        for i, d in enumerate(embedded.cranfield.documents)
    ]
    for start in range(0, len(points), 350):
        rest(f"{url}/points?wait=true", method="PUT", body={"points": points[start : start + 350]})
    action = {"create_alias": {"collection_name": name, "alias_name": f"{name}-live"}}
    rest(f"{server.url}/collections/aliases", method="POST", body={"actions": [action]})


# Each pair of models on one of the servers: minutes of embedding each, and no step of it depends on both.
@pytest.mark.only(where=lambda found: (found["server"] == "1.17.0") is (found["new"] == "minilm-1152"))
@pytest.mark.parametrize(
    ("old", "new", "writes"),
    [pytest.param("minilm", "minilm-1152", "frozen", id="384-to-1152"), pytest.param("minilm-l2", "minilm", "live", id="384-to-384")],
)
async def test_a_judged_collection_moves_while_it_is_searched(
    server: QdrantServer, name: str, embedded: Embedded, asset_models: str, old: str, new: str, writes: str
) -> None:
    """From the first look to the end, as a person would do it in a chat; what the tools say agrees with what the test measures."""
    assert server.version in VERSIONS
    cranfield = embedded.cranfield
    await _filled(server, name, embedded, old)
    direct = {model: await embedded.quality(model) for model in (old, new)}
    for model, found in direct.items():
        assert found["recall@10"] == pytest.approx(MEASURED_RECALL[model], abs=0.01)
    old_size = (await embedded.of(old))[0].shape[1]
    new_size = (await embedded.of(new))[0].shape[1]
    vectors = {
        model: dict(zip(cranfield.queries, (row.tolist() for row in (await embedded.of(model))[1]), strict=True)) for model in (old, new)
    }
    alias = f"{name}-live"
    following = Reader(server, alias, old, vectors, is_self_resolving=True)
    stale = Reader(server, alias, old, vectors, is_self_resolving=False)
    environment = {
        **server.environment,
        "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations",
        "QDRANT_MIGRATION_MODELS": asset_models,
        "QDRANT_MIGRATION_ALLOWED_DIRECTORIES": str(cranfield.folder),
    }
    began = time.monotonic()
    with searching(following, stale):
        async with hosted(environment) as host:
            migration_id = await _created(host, alias, old, new, writes)
            app_changes = await _backfilled_and_verified(host, migration_id, embedded, model=new)
            await _compared(host, migration_id, direct, old, new)
            swapped_from, swapped_at, breaks = await _swapped(host, migration_id, alias, name)
            stale.wait_for_rounds(1.1)
            following.wait_for_rounds(0.2)
            await _finished(host, migration_id)
            durations = {tool: round(max(s for t, s in host.took if t == tool), 1) for tool in {t for t, _ in host.took}}
            print(f"{server.version} {old} -> {new}: {time.monotonic() - began:.0f} s, longest calls {durations}")

    # The reader that takes model and collection together saw nothing of it.
    assert [a for a in following.asked if a.error] == []
    assert {a.model for a in following.asked} == {old, new}
    assert following.recall(cranfield.qrels, swapped_at) > 0.3
    # The one that does not had been told what would happen to it, and it did.
    before, after = stale.recall(cranfield.qrels, 0, swapped_from), stale.recall(cranfield.qrels, swapped_at)
    late = [a for a in stale.asked if a.at > swapped_at + 0.5]
    assert not [a for a in stale.asked if a.error and a.at < swapped_from]
    assert before == pytest.approx(direct[old]["recall@10"], abs=0.05)
    if old_size == new_size:
        assert any("nonsense without an error" in text for text in breaks)
        assert not [a for a in late if a.error]
        assert after < before - 0.1
    else:
        assert any(f"old model ({old_size} dimensions)" in text and "fail with a dimension error" in text for text in breaks)
        assert all(a.error and "dimension" in a.error for a in late)
    assert any(new in text and f"{new_size} dimensions" in text for text in app_changes)


async def _created(host: Host, alias: str, old: str, new: str, writes: str) -> str:
    seen = await host.call("inspect_collection", collection=alias)
    assert seen["collection"]["points"] == 1400
    assert seen["collection"]["provenance"]["model"] == old
    assert {f["field"] for f in seen["collection"]["text_fields"]} >= {"title", "text"}
    step = seen["next_step"]
    assert step["tool"] == "recommend_strategy"
    asked = {**step["arguments"], "model": new, "text_field": TEMPLATE, "readers": "self_resolving", "writes": writes}
    advice = await host.call("recommend_strategy", **asked)
    match = advice["source_match"]
    assert match["is_match"], match
    # 32, or as many as a busy machine embeds in the time.
    assert 4 <= match["sampled"] <= 32
    assert match["min_cosine"] >= match["threshold"]
    step = advice["next_step"]
    assert step["tool"] == "create_target"
    assert step["arguments"]["strategy"] == "new_collection"
    assert step["arguments"]["current_model"] == old
    rehearsed = await host.call("create_target", **step["arguments"], dry_run=True)
    assert rehearsed["is_dry_run"]
    made = await host.call("create_target", **step["arguments"])
    assert made["phase"] == "target_created"
    assert made["source_match"]["is_match"]
    assert [d for d in made["config_diff"] if not d["is_intended"]] == []
    assert made["target"]["vectors"][0]["size"] == made["recipes"][0]["dimensions"]
    assert made["app_changes"]
    found: str = made["migration_id"]
    return found


async def _backfilled_and_verified(host: Host, migration_id: str, embedded: Embedded, *, model: str) -> list[str]:
    started = await host.call("start_backfill", migration_id=migration_id)
    assert started["phase"] == "backfilling"
    status = await host.backfilled(migration_id, within_s=900)
    assert status["progress"]["failed"] == 0
    assert status["worker"]["pid"] in {pid for pid, _ in workers()}
    verified = await host.whole("verify_target", migration_id=migration_id)
    assert verified["is_complete"], verified["summary"]
    assert (verified["source_points"], verified["target_points"]) == (1400, 1400)
    assert (verified["missing"], verified["extra"], verified["changed"], verified["bad_vectors"]) == (0, 0, 0, 0)
    assert verified["accounted"] == 1400 - len(embedded.filled)
    proof = verified["provenance"]
    # Two of the documents are empty; a random draw may hold them, and they have nothing to embed.
    assert 198 <= proof["sampled"] <= 200
    assert proof["wrong"] == 0
    assert proof["min_cosine"] >= proof["threshold"]
    # fp32 is reproduced to the fourth digit, dynamic int8 depends on the batch.
    assert proof["threshold"] >= (0.95 if model == "minilm-1152" else 0.998)
    report = await host.client.read_resource(f"migration://{migration_id}/report")
    assert migration_id in str(report)
    planned = await host.call("swap_alias", migration_id=migration_id)
    changes: list[str] = planned["app_changes"]
    return changes


async def _compared(host: Host, migration_id: str, direct: dict[str, dict[str, float]], old: str, new: str) -> None:
    arguments = {"queries_file": "queries.jsonl", "qrels_file": "qrels.tsv", "id_field": "point"}
    compared = await host.whole("compare_models", migration_id=migration_id, **arguments)
    assert compared["is_judged"]
    assert compared["queries"] == 225
    found = {(m["model"], m["metric"].lower()): m["value"] for m in compared["metrics"]}
    for model in (old, new):
        for metric, value in direct[model].items():
            assert found[model, metric] == pytest.approx(value, abs=0.01), (model, metric)
    assert compared["verdict"] == "better" if old == "minilm-l2" else compared["verdict"] in ("equivalent", "inconclusive")
    assert tokens(compared) < 8_000


async def _swapped(host: Host, migration_id: str, alias: str, name: str) -> tuple[float, float, list[str]]:
    """(when the swap began, when it was over, what the plan had said it breaks)."""
    planned: dict[str, Any] = (await host.call("swap_alias", migration_id=migration_id))["plan"]
    assert [(m["alias"], m["from_collection"]) for m in planned["moves"]] == [(alias, name)]
    assert planned["counts"] == {"source_points": 1400, "target_points": 1400}
    assert "225" in planned["comparison"]
    began = time.monotonic()
    swapped = await host.call("swap_alias", migration_id=migration_id, plan=planned["code"])
    assert swapped["state"] == "done", swapped["summary"]
    assert swapped["refusal"] is None, swapped["refusal"]
    assert (swapped["alias"], swapped["previous"], swapped["phase"]) == (alias, name, "cut_over")
    assert (swapped["write_gap"]["carried_over"], swapped["write_gap"]["unresolved"]) == (0, 0)
    breaks: list[str] = planned["breaks"]
    return began, time.monotonic(), breaks


async def _finished(host: Host, migration_id: str) -> None:
    planned = await host.call("finish_migration", migration_id=migration_id, action="keep_old")
    ended = await host.call("finish_migration", migration_id=migration_id, action="keep_old", plan=planned["plan"]["code"])
    assert ended["phase"] == "finished"
    assert ended["deleted"] == []

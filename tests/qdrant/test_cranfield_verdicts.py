"""Are the verdicts on Cranfield right where the truth is known, and the numbers those of other code on other rankings?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import ir_measures
import numpy as np
import numpy.typing as npt
import pytest
from ir_measures import RR, Qrel, R, ScoredDoc, nDCG

from qdrant_model_migration.domain.comparison import compared
from qdrant_model_migration.domain.metrics import Query, Run
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.embedders.catalogue import Catalogue
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.operations.compare import compare_migration
from qdrant_model_migration.results import Comparison
from tests.conftest import Backend, Cranfield
from tests.qdrant.test_compare import matched, migration_of, opened

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")

MODELS = ("minilm", "minilm-int8", "minilm-l2")
DOCUMENTS = 300
METRICS = (nDCG @ 10, R @ 10, RR @ 10)
Rows = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The beginnings of 300 abstracts and all 225 questions, once for each model; ids count from 1."""

    documents: dict[str, Rows]
    queries: dict[str, Rows]
    payloads: list[dict[str, str]]
    ids: list[str]
    qrels: dict[str, dict[str, int]]
    """Of the questions that one of the 300 answers."""

    def scores(self, model: str) -> Rows:
        return self.queries[model] @ self.documents[model].T

    def per_query(self, scores: Rows) -> dict[str, dict[str, float]]:
        """Metric by name and question: ir_measures on every score, uncut."""
        run = [
            ScoredDoc(q, str(d + 1), float(s))
            for q, row in zip(self.ids, scores, strict=True)
            if q in self.qrels
            for d, s in enumerate(row)
        ]
        qrels = [Qrel(q, d, g) for q, judged in self.qrels.items() for d, g in judged.items()]
        found: dict[str, dict[str, float]] = {str(m): {} for m in METRICS}
        for one in ir_measures.iter_calc(METRICS, qrels, run):
            found[str(one.measure)][one.query_id] = one.value
        return found


@pytest.fixture(scope="module")
def embedded(cranfield: Cranfield, asset_models: str) -> Embedded:
    payloads = [{"title": d.title, "body": " ".join(d.body.split()[:25])} for d in cranfield.documents[:DOCUMENTS]]
    texts = [f"{p['title']}\n{p['body']}" for p in payloads]
    documents: dict[str, Rows] = {}
    queries: dict[str, Rows] = {}

    async def embed() -> None:
        catalogue = Catalogue(read_settings())
        for model in MODELS:
            embedder = await catalogue.load(model)
            order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
            rows: Any = np.zeros((len(texts), 384))
            for start in range(0, len(order), 64):
                part = order[start : start + 64]
                rows[part] = await embedder.embed([texts[i] for i in part], Side.DOCUMENT)
            documents[model] = rows
            queries[model] = np.asarray(await embedder.embed(list(cranfield.queries.values()), Side.QUERY), dtype=np.float64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QDRANT_MIGRATION_MODELS", asset_models)
        anyio.run(embed)
    held = {str(i) for i in range(1, DOCUMENTS + 1)}
    qrels = {q: {d: g for d, g in judged.items() if d in held} for q, judged in cranfield.qrels.items()}
    return Embedded(
        documents=documents, queries=queries, payloads=payloads, ids=list(cranfield.queries), qrels={q: j for q, j in qrels.items() if j}
    )


async def compared_on_cranfield(
    tmp_path: Path, embedded: Embedded, asset_models: str, assets: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, *, rows: Rows
) -> Comparison:
    """Two collections as a backfill leaves them, compared by the files as they are; `rows` are the target's vectors."""
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "q")}, version=None)
    folder = str(assets / "datasets" / "cranfield")
    async with opened(backend, monkeypatch, QDRANT_MIGRATION_MODELS=asset_models, QDRANT_MIGRATION_ALLOWED_DIRECTORIES=folder) as context:
        gateway = await context.gateway()
        params = {"size": 384, "distance": "Cosine"}
        for name, field, vectors in (("c_old", "", embedded.documents[old]), ("c_new", "dense", rows)):
            await gateway.create_collection(name, {"vectors": {field: params} if field else params})
            points = [
                Point(id=i, payload=dict(p), vectors={field: v.tolist()})
                for i, (p, v) in enumerate(zip(embedded.payloads, vectors, strict=True), start=1)
            ]
            await gateway.points.write(name, points)
        spec = (await context.catalogue.load(new)).spec
        migration = migration_of("c", spec, old=old, match=matched(old))
        return await compare_migration(context, migration, queries_file="queries.jsonl", qrels_file="qrels.tsv", id_field="point")


def independent_interval(differences: Rows, seed: int) -> tuple[float, float]:
    """A bootstrap of another generator, with the counts of each query drawn at once."""
    random = np.random.RandomState(seed)
    count = len(differences)
    drawn = random.multinomial(count, np.full(count, 1 / count), size=10_000)
    means = np.sort(drawn @ differences / count)
    return float(means[249]), float(means[9_749])


def independent_p_value(differences: Rows, seed: int) -> float:
    """A two-sided sign-flip test of another generator, with all signs drawn at once."""
    signs = np.random.RandomState(seed).choice([-1.0, 1.0], size=(10_000, len(differences)))
    extreme = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12
    return float((extreme.sum() + 1) / 10_001)


async def test_full_model_is_better_than_two_layers_by_numbers_of_other_code(
    tmp_path: Path, embedded: Embedded, asset_models: str, assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await compared_on_cranfield(
        tmp_path, embedded, asset_models, assets, monkeypatch, "minilm-l2", "minilm", rows=embedded.documents["minilm"]
    )
    assert (found.verdict, found.counts.judged, found.counts.without_relevant) == ("better", len(embedded.qrels), 225 - len(embedded.qrels))
    base, candidate = (embedded.per_query(embedded.scores(model)) for model in ("minilm-l2", "minilm"))
    names = {"nDCG@10": "ndcg@10", "R@10": "recall@10", "RR@10": "mrr@10"}
    ours = {(m.model, m.metric): m for m in found.metrics}
    for theirs, name in names.items():
        judged = list(embedded.qrels)
        one, other = (np.array([values[theirs].get(q, 0.0) for q in judged]) for values in (base, candidate))
        assert ours["minilm-l2", name].value == pytest.approx(one.mean(), abs=1e-6)
        assert ours["minilm", name].value == pytest.approx(other.mean(), abs=1e-6)
        assert ours["minilm", name].difference == pytest.approx((other - one).mean(), abs=1e-6)
        low, high = independent_interval(other - one, 7)
        assert (ours["minilm", name].ci_low, ours["minilm", name].ci_high) == pytest.approx((low, high), abs=0.005)
        # A few in ten thousand: how many depends on last digits, in which processors differ.
        p_value = ours["minilm", name].p_value
        assert p_value == pytest.approx(independent_p_value(other - one, 7), abs=0.0005)
        assert p_value is not None
        assert p_value < 0.001


async def test_int8_is_equivalent_or_undecided(
    tmp_path: Path, embedded: Embedded, asset_models: str, assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await compared_on_cranfield(
        tmp_path, embedded, asset_models, assets, monkeypatch, "minilm", "minilm-int8", rows=embedded.documents["minilm-int8"]
    )
    assert found.verdict in ("equivalent", "inconclusive")
    assert found.overlap_at_k is not None
    assert found.overlap_at_k > 0.8
    assert ("minilm-int8" in found.counts.needed) == (found.verdict == "inconclusive")


async def test_shuffled_dimensions_are_worse(
    tmp_path: Path, embedded: Embedded, asset_models: str, assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if another model of as many dimensions had written the target: Qdrant itself does not notice."""
    order = np.random.default_rng(0).permutation(384)
    found = await compared_on_cranfield(
        tmp_path, embedded, asset_models, assets, monkeypatch, "minilm", "minilm", rows=embedded.documents["minilm"][:, order]
    )
    assert found.verdict == "worse"
    primary = next(m for m in found.metrics if m.metric == "ndcg@10" and m.difference is not None)
    assert primary.ci_high is not None
    assert primary.ci_high < -0.2


def test_a_model_against_itself_is_told_apart_no_more_often_than_stated(embedded: Embedded) -> None:
    """Two noisy copies of the same vectors, 100 seeds: 5 % stated, and chance may add two standard deviations."""
    queries = [
        Query(id=q, text="x", relevant={int(d): g for d, g in embedded.qrels[q].items()}) for q in embedded.ids if q in embedded.qrels
    ]
    rows = embedded.queries["minilm"][[i for i, q in enumerate(embedded.ids) if q in embedded.qrels]]
    documents = embedded.documents["minilm"].astype(np.float32)
    called: list[str] = []
    for seed in range(100):
        random = np.random.default_rng(seed)

        def noisy(name: str, random: np.random.Generator = random) -> Run:
            scores = rows @ (documents + random.normal(0, 0.04, documents.shape)).T
            best = np.argsort(-scores, axis=1)[:, :10] + 1
            return Run(model=name, found={q.id: [int(d) for d in row] for q, row in zip(queries, best, strict=True)})

        outcome = compared(queries, noisy("minilm"), [noisy("minilm (#2)")], basis="judged", k=10, margin=0.0, gate=None, seed=seed)
        called.append(outcome.verdict)
    assert sum(verdict in ("better", "worse") for verdict in called) <= 9
    assert called.count("equivalent") == 0

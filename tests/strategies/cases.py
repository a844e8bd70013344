"""What is asked of each strategy, what must come of it, and how do its readers search before and after?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.conftest import Backend, Cranfield
from tests.mcp.hosts import Host
from tests.qdrant.seeds import opened
from tests.strategies import recipes
from tests.strategies.oracle import Oracle
from tests.strategies.places import Json, Place
from tests.strategies.readers import Reader
from tests.strategies.scene import NAMED, OLD_MODEL, OLD_SIZE, Variant, queries_of

CUT = 320
LIMIT = 5


@dataclass(frozen=True, kw_only=True)
class Case:
    """One strategy on one variant of the collection."""

    strategy: str
    model: str | None = None
    """Its name; on servers `add_sparse` has the server compute."""
    arguments: Json = field(default_factory=dict)
    variant: Variant = NAMED
    replaces: bool = False
    """The made field takes the place of the old one; else it stands beside it."""
    made: str | None = None
    """Name of the made field; None where it is the old one's."""
    agree: recipes.Agree = recipes.agree_as_int8

    @property
    def id(self) -> str:
        return f"{self.strategy}-{self.variant.name}"

    def model_on(self, backend: Backend) -> str | None:
        return self.model if self.strategy != "add_sparse" or backend.is_embedded else "qdrant:bm25"

    def request(self, backend: Backend, name: str) -> Json:
        model = self.model_on(backend)
        asked = {"collection": f"{name}-live", "strategy": self.strategy, "writes": "frozen", **self.arguments}
        return asked | ({} if model is None else {"model": model})

    def field_made(self) -> str | None:
        return self.variant.old if self.replaces else self.made

    def is_in_place(self, backend: Backend) -> bool:
        """The servers at hand cannot add a field, and the embedded database not beside an unnamed one."""
        if self.strategy == "requantize":
            return True
        can = backend.is_embedded and self.variant.is_rich
        return can and self.strategy in ("named_vector", "add_sparse", "add_multivector")


TEXT: Json = {"text_field": "text"}
CURRENT: Json = {"current_model": OLD_MODEL}
NEW_COLLECTION = Case(strategy="new_collection", model="minilm-256", replaces=True, arguments={**TEXT, "readers": "self_resolving"})
SIDE_BY_SIDE = Case(strategy="side_by_side", model="minilm-1152", made="wide", arguments={**TEXT, "new_vector": "wide"})
NAMED_VECTOR = Case(strategy="named_vector", model="minilm-l2", made="second", arguments={**TEXT, "new_vector": "second"})
ADD_SPARSE = Case(strategy="add_sparse", model="bm25", made="sparse", arguments=TEXT, agree=recipes.agree_as_sparse)
ADD_MULTIVECTOR = Case(strategy="add_multivector", model="colbert", made="multivector", arguments=TEXT, agree=recipes.agree_by_token)
TRUNCATE = Case(
    strategy="truncate",
    replaces=True,
    arguments={**TEXT, **CURRENT, "dimensions": CUT, "readers": "self_resolving"},
    agree=recipes.agree_closely,
)
LINEAR_MAP = Case(
    strategy="linear_map",
    model="minilm",
    replaces=True,
    arguments={**TEXT, "readers": "self_resolving"},
    agree=recipes.agree_closely,
)
REQUANTIZE = Case(strategy="requantize", arguments={"quantization": "scalar"})


def with_vector(case: Case, variant: Variant) -> Case:
    """The same on the other variant; a collection of several dense fields is told which."""
    more = {"vector": variant.old} if variant.is_rich else {}
    return Case(**{**case.__dict__, "variant": variant, "arguments": {**case.arguments, **more}})


async def prepare(case: Case, host: Host, name: str) -> None:
    """What a person does before: vectors are cut only after a comparison that passed."""
    if case.strategy == "truncate":
        compared = await host.whole(
            "compare_models", collection=name, models=[OLD_MODEL, f"{OLD_MODEL}@{CUT}"], sample_size=200, margin=0.05, **TEXT
        )
        assert compared["verdict"] in ("equivalent", "better"), compared["summary"]


async def expected(
    case: Case, backend: Backend, place: Place, source: recipes.Dump, oracle: Oracle, name: str, migration_id: str, monkeypatch: Any
) -> recipes.Values:
    """What the made field should hold, by the oracle."""
    match case.strategy:
        case "requantize":
            return {}
        case "truncate":
            return recipes.cut(source, case.variant.old, CUT)
        case "linear_map":
            async with opened(backend, monkeypatch) as context:
                fitted = await (await context.ledger()).load_map(migration_id)
            assert fitted is not None
            return recipes.mapped(source, case.variant.old, fitted.matrix, fitted.offset)
        case "add_multivector":
            return recipes.late_interaction(oracle, source)
        case "add_sparse" if backend.is_embedded:
            return recipes.bm25(oracle, source)
        case "add_sparse":
            return recipes.bm25_of_server(place, f"{name}-scratch", source)
        case _:
            assert case.model is not None
            return recipes.embedded(oracle, source, case.model)


def readers_of(case: Case, backend: Backend, place: Place, oracle: Oracle, cranfield: Cranfield, name: str) -> tuple[Reader, Reader | None]:
    """The reader that searches from the beginning, and the one that changes to the new field when it may."""
    questions = queries_of(cranfield)
    using = {"using": case.variant.old} if case.variant.old else {}
    old = [{"query": row.tolist(), **using, "limit": LIMIT} for row in oracle.dense(OLD_MODEL, questions)]
    first = Reader(place=place, alias=f"{name}-live", bodies={OLD_MODEL: old}, model=OLD_MODEL)
    if case.replaces:
        model = f"{OLD_MODEL}@{CUT}" if case.strategy == "truncate" else str(case.model)
        rows = oracle.dense(OLD_MODEL, questions)[:, :CUT] if case.strategy == "truncate" else oracle.dense(model, questions)
        first.bodies[model] = [{"query": row.tolist(), **using, "limit": LIMIT} for row in rows]
        first.is_self_resolving = True
        return first, None
    if case.made is None:
        return first, None
    make: dict[str, Callable[[], list[Json]]] = {
        "add_sparse": lambda: _hybrid(old, backend, oracle, questions),
        "add_multivector": lambda: _reranked(old, oracle, questions),
    }
    beside = make.get(case.strategy, lambda: _dense(oracle, str(case.model), str(case.made), questions))()
    model = str(case.model_on(backend))
    return first, Reader(place=place, alias=f"{name}-live", bodies={model: beside}, model=model)


def _dense(oracle: Oracle, model: str, using: str, questions: list[str]) -> list[Json]:
    return [{"query": row.tolist(), "using": using, "limit": LIMIT} for row in oracle.dense(model, questions)]


def _hybrid(old: list[Json], backend: Backend, oracle: Oracle, questions: list[str]) -> list[Json]:
    """Two prefetches, fused."""
    sparse: list[Any] = [{"text": q, "model": "qdrant/bm25"} for q in questions]
    if backend.is_embedded:
        sparse = list(oracle.sparse(questions, is_query=True))
    return [
        {"prefetch": [dense, {"query": words, "using": "sparse", "limit": LIMIT}], "query": {"fusion": "rrf"}, "limit": LIMIT}
        for dense, words in zip(old, sparse, strict=True)
    ]


def _reranked(old: list[Json], oracle: Oracle, questions: list[str]) -> list[Json]:
    """A dense prefetch, reranked by tokens."""
    return [
        {"prefetch": [{**dense, "limit": 20}], "query": rows.tolist(), "using": "multivector", "limit": LIMIT}
        for dense, rows in zip(old, oracle.tokens(questions, is_query=True), strict=True)
    ]


assert OLD_SIZE > CUT

"""What stands on the decision card, and what it rests on?"""

from __future__ import annotations

from typing import Any

import pytest

from qdrant_model_migration.domain.model import ModelSpec
from qdrant_model_migration.embedders.providers import PRICES, PRICES_SEEN
from qdrant_model_migration.operations.cards import SERVER_BM25_RATE, Measured, card
from qdrant_model_migration.operations.fitting import SAMPLE_SIZE
from qdrant_model_migration.operations.sampling import Timing
from qdrant_model_migration.results import Card
from qdrant_model_migration.settings import ModelSettings
from tests.unit.test_strategy import CUT, HYBRID, QUANTIZE, RERANK, SPLADED, judged, seen

TIMING = Timing(texts=100, texts_per_second=50.0, tokens=[100, 300], truncated_share=0.25)
POINTS = 1_000_000
LARGE = ModelSpec(name="openai:text-embedding-3-large", dimensions=3072, is_local=False, price_per_million=PRICES["text-embedding-3-large"])


def carded(strategy: str, *, timing: Timing | None = TIMING, settings: ModelSettings | None = None, **changes: Any) -> Card:
    observed = seen(points=POINTS, **changes)
    return card(judged(strategy, observed), observed, Measured(timing=timing, payload_each=500.0, payloads=256, settings=settings))


def test_tokens_time_and_money_come_from_the_sample() -> None:
    made = carded("new_collection", model=LARGE, text_coverage=0.5)
    assert made.tokens == POINTS // 2 * 200
    assert made.seconds == POINTS / 2 / 50
    assert made.cost_usd == 13.0
    assert made.truncated_share == 0.25
    assert "100 texts embedded on this machine at 50/s" in made.measured_from


def test_the_provider_s_limits_bound_the_time() -> None:
    settings = ModelSettings(provider="openai", tokens_per_minute=100_000)
    assert carded("new_collection", model=LARGE, settings=settings).seconds == POINTS * 200 / 100_000 * 60


@pytest.mark.parametrize(
    ("price", "settings", "words"),
    [
        (0.13, None, f"USD 0.13 per million tokens, the list price seen on {PRICES_SEEN} (price_per_million overrides it)"),
        (0.05, ModelSettings(price_per_million=0.05), "USD 0.05 per million tokens, as configured"),
        (None, None, "no price is known: price_per_million"),
    ],
)
def test_a_price_comes_with_its_origin_and_date(price: float | None, settings: ModelSettings | None, words: str) -> None:
    made = carded("new_collection", model=LARGE.model_copy(update={"price_per_million": price}), settings=settings)
    assert words in made.measured_from
    assert (made.cost_usd is None) is (price is None)


def test_a_local_model_has_no_price() -> None:
    assert "price" not in carded("new_collection").measured_from


def test_a_map_embeds_the_sample_alone() -> None:
    made = carded("linear_map", model=LARGE)
    assert made.tokens == SAMPLE_SIZE * 200
    assert made.cost_usd == 0.26
    assert made.seconds == SAMPLE_SIZE / 50 + POINTS / 2000
    assert "10,000 texts embedded, the other vectors mapped" in made.measured_from


@pytest.mark.parametrize(("strategy", "changes"), [("truncate", CUT), ("requantize", QUANTIZE)])
def test_what_embeds_nothing_costs_no_tokens(strategy: str, changes: dict[str, Any]) -> None:
    made = carded(strategy, **changes)
    assert (made.tokens, made.cost_usd, made.truncated_share) == (0, None, None)
    assert "embedded on this machine" not in made.measured_from
    assert made.disk_bytes is not None


def test_smaller_vectors_free_disk_and_memory_in_the_end() -> None:
    made = carded("truncate", **CUT)
    assert (made.disk_bytes or 0) > 0 > (made.disk_after_bytes or 0)
    assert (made.ram_bytes or 0) > 0 > (made.ram_after_bytes or 0)
    assert made.seconds == POINTS / 2000


def test_a_copy_that_is_filled_afterwards_is_written_twice() -> None:
    fast = Timing(texts=100, texts_per_second=1e6, tokens=[], truncated_share=None)
    assert carded("side_by_side", timing=fast).seconds == 2 * POINTS / 2000
    assert carded("named_vector", version="1.18.0", timing=fast).seconds == POINTS / 2000


@pytest.mark.parametrize(
    ("strategy", "changes", "rows", "words"),
    [
        ("add_sparse", SPLADED, 80.0, "80 entries a sampled text"),
        ("add_sparse", SPLADED, None, "not measured here"),
        ("add_multivector", RERANK, 200.0, "200 token vectors a sampled text"),
    ],
)
def test_an_added_field_is_sized_by_the_sample(strategy: str, changes: dict[str, Any], rows: float | None, words: str) -> None:
    assert words in carded(strategy, rows=rows, **changes).measured_from
    more = carded(strategy, rows=1000.0, **changes)
    assert (more.disk_after_bytes or 0) > (carded(strategy, rows=rows, **changes).disk_after_bytes or 0)


def test_bm25_in_the_server_is_timed_by_the_server_s_rate() -> None:
    made = carded("add_sparse", timing=None, **HYBRID)
    assert made.seconds == max(POINTS / SERVER_BM25_RATE, POINTS / 2000)
    assert made.cost_usd is None


def test_another_model_of_the_server_is_timed_by_its_sample() -> None:
    """An inference service behind Qdrant is a hundred times slower than BM25."""
    served = ModelSpec(name="qdrant:acme/dense", dimensions=768, is_server_side=True, is_local=False)
    assert carded("new_collection", model=served).seconds == POINTS / 50


def test_a_refused_strategy_has_only_its_points() -> None:
    assert carded("requantize", **QUANTIZE, is_embedded=True) == Card(points=POINTS)

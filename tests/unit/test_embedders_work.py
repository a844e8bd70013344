"""The pure parts of embedding: bookkeeping of spans, waits, minute limits, name matching, batches, provider failures."""

from __future__ import annotations

import numpy as np
import pytest

from qdrant_model_migration.embedders.base import Row
from qdrant_model_migration.embedders.catalogue import matching
from qdrant_model_migration.embedders.checks import check_answer
from qdrant_model_migration.embedders.fastembed_model import batches
from qdrant_model_migration.embedders.limits import MinuteWindow
from qdrant_model_migration.embedders.prefixes import known_prefixes
from qdrant_model_migration.embedders.provider_errors import Fault, provider_error, safe_words
from qdrant_model_migration.embedders.retrying import ATTEMPTS, LONGEST_WAIT_S, Work, retry_wait_s
from qdrant_model_migration.errors import BadText, BatchTooLarge, ModelNotUsable, TransientEmbedding


def _finish(work: Work[Row], poison: set[int], largest: int = 1000) -> list[range]:
    """Work off like a provider that refuses poison and long requests; returns the requests."""
    sent: list[range] = []
    while (span := work.next_span()) is not None:
        sent.append(span)
        if len(span) > largest:
            work.too_large(span, "too large")
        elif poison & set(span):
            work.refused(span, "poison")
        else:
            work.succeeded(span, np.array([[position] for position in span], dtype=np.float32))
    return sent


@pytest.mark.parametrize("poison", [set(), {0}, {99}, {41, 42}, set(range(100))])
def test_bisecting_fails_exactly_the_poison_and_embeds_all_others(poison: set[int]) -> None:
    work: Work[Row] = Work(100, 32)
    _finish(work, poison)
    assert {failure.index for failure in work.failures} == poison
    for position, row in enumerate(work.rows):
        assert (row is None) == (position in poison)
        assert row is None or row[0] == position


def test_one_poison_text_costs_two_requests_for_each_halving() -> None:
    assert len(_finish(Work[Row](64, 64), {17})) == 1 + 2 * 6


def test_a_size_that_was_too_large_is_not_tried_again() -> None:
    sent = _finish(Work[Row](64, 16), set(), largest=5)
    assert [len(span) for span in sent if len(span) > 5] == [16, 8]
    assert sorted(position for span in sent if len(span) <= 5 for position in span) == list(range(64))


def test_a_single_text_that_is_too_large_fails_alone() -> None:
    work: Work[Row] = Work(3, 3)
    _finish(work, set(), largest=0)
    assert [failure.reason for failure in work.failures] == ["too large"] * 3


def test_waits_grow_are_bounded_and_end() -> None:
    waits = [retry_wait_s(attempt, None, 0.0) for attempt in range(1, ATTEMPTS + 1)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, None]
    assert retry_wait_s(1, None, 0.99) == pytest.approx(0.995)


def test_the_provider_s_own_wait_is_a_lower_bound_until_it_is_unreasonable() -> None:
    assert retry_wait_s(1, 7.0, 0.25) == 7.25
    assert retry_wait_s(1, 0.0, 0.25) == 0.25
    assert retry_wait_s(1, LONGEST_WAIT_S + 1, 0.0) is None


def test_requests_a_minute_are_spread_over_the_window() -> None:
    window = MinuteWindow(2, None)
    for now_s in (0.0, 10.0):
        assert window.wait_s(now_s, 1) == 0
        window.record(now_s, 1)
    assert window.wait_s(20.0, 1) == 40.0
    assert window.wait_s(60.0, 1) == 0


def test_tokens_a_minute_wait_for_as_many_old_requests_as_needed() -> None:
    window = MinuteWindow(None, 100)
    window.record(0.0, 50)
    window.record(5.0, 40)
    assert window.wait_s(6.0, 10) == 0
    assert window.wait_s(6.0, 60) == 54.0
    assert window.wait_s(6.0, 61) == 59.0


def test_a_request_above_the_whole_limit_waits_for_an_empty_window_and_passes() -> None:
    window = MinuteWindow(None, 100)
    assert window.wait_s(0.0, 500) == 0
    window.record(0.0, 500)
    assert window.wait_s(1.0, 1) == 59.0


def test_without_limits_nothing_waits() -> None:
    window = MinuteWindow(None, None)
    for _ in range(1000):
        window.record(0.0, 10**6)
    assert window.wait_s(0.0, 10**6) == 0


KNOWN = [
    "BAAI/bge-small-en",
    "BAAI/bge-small-en-v1.5",
    "thenlper/gte-base",
    "nomic-ai/nomic-embed-text-v1.5",
    "nomic-ai/nomic-embed-text-v1.5-Q",
]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("baai/BGE-small-en-v1.5", ["BAAI/bge-small-en-v1.5"]),
        ("bge-small-en", ["BAAI/bge-small-en"]),
        ("bge-small", ["BAAI/bge-small-en", "BAAI/bge-small-en-v1.5"]),
        ("gte", ["thenlper/gte-base"]),
        ("embed-text-v1.5-q", ["nomic-ai/nomic-embed-text-v1.5-Q"]),
        ("nomic-embed-text-v1.5", ["nomic-ai/nomic-embed-text-v1.5"]),
        ("e", []),
        ("unknown", []),
    ],
)
def test_names_match_exactly_before_they_match_loosely(name: str, found: list[str]) -> None:
    assert matching(name, KNOWN) == found


def test_batches_hold_texts_of_like_length_within_both_bounds() -> None:
    lengths = [10, 5000, 20, 100_000, 30, 4000]
    made = list(batches(lengths, lambda: 2, 10_000))
    assert made == [[3], [1, 5], [4, 2], [0]]
    assert sorted(position for batch in made for position in batch) == list(range(6))


@pytest.mark.parametrize(
    ("model", "document", "query"),
    [
        ("intfloat/multilingual-e5-large", "passage: ", "query: "),
        ("nomic-ai/nomic-embed-text-v1.5-Q", "search_document: ", "search_query: "),
        ("BAAI/bge-small-en-v1.5", "", "Represent this sentence for searching relevant passages: "),
        ("snowflake/snowflake-arctic-embed-s", "", "Represent this sentence for searching relevant passages: "),
        ("BAAI/bge-small-zh-v1.5", "", "为这个句子生成表示以用于检索相关文章："),
        ("sentence-transformers/all-MiniLM-L6-v2", "", ""),
        ("jinaai/jina-embeddings-v3", "", ""),
    ],
)
def test_known_families_have_their_prefixes(model: str, document: str, query: str) -> None:
    found = known_prefixes(model)
    assert (found.document, found.query) == (document, query)


@pytest.mark.parametrize(
    ("vectors", "error"),
    [
        ([[1.0, 0.0]], ModelNotUsable),
        ([[1.0, 0.0], [1.0]], ModelNotUsable),
        ([[1.0], [1.0]], ModelNotUsable),
        ([[1.0, 0.0], [None, "x"]], ModelNotUsable),
        ([1.0, 2.0], ModelNotUsable),
        (3.0, ModelNotUsable),
        ([[1.0, 0.0], [0.0, 0.0]], BadText),
        ([[1.0, 0.0], [float("nan"), 1.0]], BadText),
        ([[1.0, 0.0], [1e300, 1.0]], BadText),
    ],
)
def test_answers_that_cannot_be_stored_are_refused(vectors: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        check_answer(vectors, 2, 2, "m")


@pytest.mark.parametrize(
    ("fault", "count", "error"),
    [
        (Fault(status=429, retry_after_s=3.0), 5, TransientEmbedding),
        (Fault(status=429, is_quota=True), 5, ModelNotUsable),
        (Fault(status=503), 1, TransientEmbedding),
        (Fault(status=529), 1, TransientEmbedding),
        (Fault(is_timeout=True), 1, TransientEmbedding),
        (Fault(), 1, TransientEmbedding),
        (Fault(status=413), 5, BatchTooLarge),
        (Fault(status=413), 1, BadText),
        (Fault(status=400, said="This model's maximum context length is 8192 tokens"), 5, BatchTooLarge),
        (Fault(status=400, said="This model's maximum context length is 8192 tokens"), 1, BadText),
        (Fault(status=422, said="batch size 64 > maximum allowed batch size 32"), 64, BatchTooLarge),
        (Fault(status=400), 5, BadText),
        (Fault(status=401), 1, ModelNotUsable),
        (Fault(status=403), 1, ModelNotUsable),
        (Fault(status=404), 1, ModelNotUsable),
        (Fault(status=418), 1, ModelNotUsable),
    ],
)
def test_a_provider_s_failure_says_what_to_do_next(fault: Fault, count: int, error: type[Exception]) -> None:
    found = provider_error(fault, model="m", count=count, key_variable="SOME_KEY")
    assert type(found) is error
    if isinstance(found, TransientEmbedding):
        assert found.retry_after_s == fault.retry_after_s


@pytest.mark.parametrize(
    ("body", "hidden"),
    [
        (
            {"error": {"message": "Incorrect API key provided: sk-proj-abc***xyz. See https://platform.example/keys"}},
            ["sk-proj", "platform.example"],
        ),
        ({"message": "upstream 10.0.0.7:8080 refused"}, ["10.0.0.7", "8080"]),
        ("cannot reach embeddings.internal:9000", ["embeddings.internal"]),
        ({"error": "bad token topsecret"}, ["topsecret"]),
        ({"error": "gpu-box is out of memory"}, ["gpu-box"]),
        ({"detail": [{"input": "the text of the person"}]}, ["person"]),
        ({"error": "cannot embed 'query: the text of the person'"}, ["person"]),
    ],
)
def test_what_a_provider_said_is_shown_without_keys_addresses_and_texts(body: object, hidden: list[str]) -> None:
    shown = safe_words(body, ["query: the text of the person"], ["topsecret", None, "gpu-box"])
    assert not [word for word in hidden if word in shown]
    assert len(shown) <= 200

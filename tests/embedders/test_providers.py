"""Providers, against a real server on loopback that speaks OpenAI's protocol."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import anyio
import numpy as np
import pytest

from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.embedders import providers
from qdrant_model_migration.embedders.builtin import HashingEmbedder
from qdrant_model_migration.embedders.catalogue import Catalogue
from qdrant_model_migration.embedders.providers import ProviderEmbedder, load_provider
from qdrant_model_migration.embedders.retrying import embed_resilient
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import BadText, BatchTooLarge, Interrupted, ModelNotUsable, NotFound, SettingsError, TransientEmbedding
from qdrant_model_migration.settings import ModelSettings
from tests.openai_server import Answer, OpenAIServer, refusal

pytest.importorskip("tiktoken", reason="pydantic-ai-slim[openai] is not installed completely: install the extra 'providers'")

KEY = "topsecret-value-1234"


@pytest.fixture
def endpoint() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


Load = Callable[..., Awaitable[ProviderEmbedder]]


@pytest.fixture
async def load() -> AsyncIterator[Load]:
    """Loads a model of a server and forgets the probes; closes it after the test."""
    opened: list[ProviderEmbedder] = []

    async def connect(server: OpenAIServer, dimensions: int | None = None, **settings: object) -> ProviderEmbedder:
        entry = ModelSettings.model_validate({"provider": "openai", "base_url": server.base_url, **settings})
        opened.append(await load_provider("mine", "some-model", dimensions, entry))
        server.requests.clear()
        return opened[-1]

    yield connect
    for model in opened:
        await model.close()


@pytest.mark.anyio
async def test_vectors_come_in_order_and_are_measured(load: Load, endpoint: OpenAIServer) -> None:
    model = await load(endpoint)
    assert (model.spec.dimensions, model.spec.is_normalized, model.spec.is_local, model.spec.max_tokens) == (64, True, True, None)
    texts = ["wing", "fuselage", "a longer text about flow"]
    expected = await HashingEmbedder("hashing-64").embed(texts, Side.DOCUMENT)
    assert np.allclose(await model.embed(texts, Side.DOCUMENT), expected, atol=1e-6)
    assert await model.count_tokens(texts) is None
    await model.close()
    with pytest.raises(ModelNotUsable, match="was closed"):
        await model.embed(texts, Side.DOCUMENT)


@pytest.mark.anyio
async def test_requests_are_split_and_prefixed_by_side(load: Load, endpoint: OpenAIServer) -> None:
    model = await load(endpoint, batch_size=2, document_prefix="passage: ", query_prefix="query: ")
    await model.embed(["a", "b", "c"], Side.DOCUMENT)
    await model.embed(["d"], Side.QUERY)
    assert endpoint.texts == [["passage: a", "passage: b"], ["passage: c"], ["query: d"]]


@pytest.mark.anyio
async def test_dimensions_are_asked_for_only_when_the_model_does_not_give_them_by_itself(load: Load, endpoint: OpenAIServer) -> None:
    """Many compatible servers refuse the parameter altogether."""
    native = await load(endpoint, 64)
    await native.embed(["a"], Side.DOCUMENT)
    assert [request.dimensions for request in endpoint.requests] == [None]
    shorter = await load(endpoint, 32)
    assert (await shorter.embed(["a"], Side.DOCUMENT)).shape == (1, 32)
    assert [request.dimensions for request in endpoint.requests] == [32]


@pytest.mark.anyio
async def test_dimensions_that_the_model_cannot_give_are_refused_with_both_numbers(load: Load) -> None:
    with OpenAIServer(can_shrink=False) as server, pytest.raises(ModelNotUsable, match="gives 64 dimensions, and was asked for 32"):
        await load(server, 32)


@pytest.mark.anyio
@pytest.mark.parametrize("headers", [{"retry-after": "7"}, {"retry-after-ms": "7000"}])
async def test_a_rate_limit_carries_the_provider_s_wait_and_is_not_retried_behind_our_back(
    load: Load, endpoint: OpenAIServer, headers: dict[str, str]
) -> None:
    model = await load(endpoint)
    endpoint.always = refusal("Rate limit reached", 429, headers=headers)
    with pytest.raises(TransientEmbedding, match="slow down") as caught:
        await model.embed(["a"], Side.DOCUMENT)
    assert caught.value.retry_after_s == 7.0
    assert len(endpoint.requests) == 1


@pytest.mark.anyio
async def test_a_rate_limit_without_a_wait_has_none(load: Load, endpoint: OpenAIServer) -> None:
    model = await load(endpoint)
    endpoint.always = refusal("Rate limit reached", 429)
    with pytest.raises(TransientEmbedding) as caught:
        await model.embed(["a"], Side.DOCUMENT)
    assert caught.value.retry_after_s is None


@pytest.mark.anyio
async def test_a_used_up_quota_is_not_waited_out(load: Load, endpoint: OpenAIServer) -> None:
    """OpenAI says it with 429 as well."""
    model = await load(endpoint)
    endpoint.always = refusal("You exceeded your current quota", 429, code="insufficient_quota")
    with pytest.raises(ModelNotUsable, match="quota or credit is used up"):
        await model.embed(["a"], Side.DOCUMENT)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answer",
    [Answer(status=500, body={"error": "boom"}), Answer(status=503, body="<html>"), Answer(hang_up=True), Answer(body="not json at all")],
)
async def test_failures_of_the_provider_are_transient(load: Load, endpoint: OpenAIServer, answer: Answer) -> None:
    model = await load(endpoint)
    endpoint.always = answer
    with pytest.raises(TransientEmbedding):
        await model.embed(["a"], Side.DOCUMENT)
    assert len(endpoint.requests) == 1


@pytest.mark.anyio
async def test_an_answer_that_takes_too_long_is_transient(load: Load, endpoint: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "TIMEOUT_S", 0.1)
    model = await load(endpoint)
    endpoint.always = Answer(delay_s=0.5)
    with pytest.raises(TransientEmbedding, match="did not answer in time"):
        await model.embed(["a"], Side.DOCUMENT)


@pytest.mark.anyio
async def test_an_endpoint_of_the_library_s_own_variable_is_no_longer_openai(
    endpoint: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPENAI_BASE_URL: neither OpenAI's price nor its token limit holds there."""
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    catalogue = Catalogue(read_settings())
    model = await catalogue.load("openai:text-embedding-3-small@64")
    assert (model.spec.price_per_million, model.spec.max_tokens, model.spec.is_local) == (None, None, True)
    await catalogue.close()


@pytest.mark.anyio
async def test_no_server_at_all_is_transient_and_its_address_is_not_told(load: Load) -> None:
    with OpenAIServer() as server:
        model = await load(server)
        port = str(server.port)
    with pytest.raises(TransientEmbedding) as caught:
        await model.embed(["a"], Side.DOCUMENT)
    assert port not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.anyio
async def test_too_many_texts_are_told_from_a_bad_text(load: Load) -> None:
    with OpenAIServer(most_texts=2) as server:
        model = await load(server)
        with pytest.raises(BatchTooLarge, match="maximum allowed batch size of 2"):
            await model.embed(["a", "b", "c"], Side.DOCUMENT)
        with pytest.raises(BadText, match="refuses this text"):
            await model.embed(["POISON"], Side.DOCUMENT)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(spoil=lambda rows: rows[:-1]), "answered 2 texts with 1 vectors"),
        (Answer(spoil=lambda rows: [*rows, rows[0]]), "answered 2 texts with 3 vectors"),
        (Answer(spoil=lambda rows: [row[:5] for row in rows]), "5 dimensions; it had 64"),
        (Answer(spoil=lambda rows: [rows[0], rows[1][:5]]), "varying size"),
        (Answer(spoil=lambda _: []), "no vectors that could be read"),
        (Answer(body={"unexpected": True}), "no vectors that could be read"),
    ],
)
async def test_malformed_answers_are_refused(load: Load, endpoint: OpenAIServer, answer: Answer, message: str) -> None:
    model = await load(endpoint)
    endpoint.always = answer
    with pytest.raises(ModelNotUsable, match=message):
        await model.embed(["a", "b"], Side.DOCUMENT)


@pytest.mark.anyio
async def test_a_nan_or_zero_vector_is_the_text_s_fault_while_the_model_is_sound(load: Load, endpoint: OpenAIServer) -> None:
    model = await load(endpoint)
    for value in (float("nan"), 0.0):
        endpoint.script = [Answer(spoil=lambda rows, value=value: [rows[0], [value] * 64])]  # type: ignore[misc]
        with pytest.raises(BadText, match="1 of 2 texts got a vector"):
            await model.embed(["a", "b"], Side.DOCUMENT)


@pytest.mark.anyio
async def test_a_model_that_gives_only_nan_is_not_usable(load: Load, endpoint: OpenAIServer) -> None:
    model = await load(endpoint)
    endpoint.always = Answer(spoil=lambda rows: [[float("nan")] * 64 for _ in rows])
    with pytest.raises(ModelNotUsable, match="no longer gives a usable vector"):
        await model.embed(["a"], Side.DOCUMENT)
    with pytest.raises(ModelNotUsable, match="cannot be used"):
        await load(endpoint)


@pytest.mark.anyio
async def test_the_configured_key_is_sent_and_never_told(load: Load, endpoint: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_ENDPOINT_KEY", KEY)
    model = await load(endpoint, key_variable="MY_ENDPOINT_KEY")
    await model.embed(["a"], Side.DOCUMENT)
    assert endpoint.requests[0].headers["authorization"] == f"Bearer {KEY}"
    endpoint.always = refusal(f"Incorrect API key provided: {KEY}", 401)
    with pytest.raises(ModelNotUsable, match="does not accept the key in MY_ENDPOINT_KEY") as caught:
        await model.embed(["a"], Side.DOCUMENT)
    endpoint.always = refusal(f"Bad request of {KEY}", 400)
    with pytest.raises(BadText) as other:
        await model.embed(["a"], Side.DOCUMENT)
    for error in (caught.value, other.value, model.spec):
        assert KEY not in repr(error)


@pytest.mark.anyio
async def test_openai_s_own_key_and_organization_go_to_no_other_endpoint(
    load: Load, endpoint: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    model = await load(endpoint)
    await model.embed(["a"], Side.DOCUMENT)
    headers = endpoint.requests[0].headers
    assert KEY not in str(headers)
    assert not {"openai-organization", "openai-project"} & set(headers)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("model", "variable"),
    [("openai:text-embedding-3-small", "OPENAI_API_KEY"), ("cohere:embed-v4.0", "CO_API_KEY"), ("voyage:voyage-4", "VOYAGE_API_KEY")],
)
async def test_a_missing_key_names_its_variable(model: str, variable: str) -> None:
    with pytest.raises(SettingsError, match=variable):
        await Catalogue(read_settings()).load(model)


@pytest.mark.anyio
async def test_a_provider_whose_sdk_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOYAGE_API_KEY", KEY)
    with pytest.raises(ModelNotUsable, match=r"qdrant-model-migration\[providers\] and pydantic-ai-slim\[voyageai\]"):
        await Catalogue(read_settings()).load("voyageai:voyage-4")


@pytest.mark.anyio
async def test_an_unknown_provider_and_a_broken_address_are_refused() -> None:
    with pytest.raises(NotFound, match="'openai'"):
        await Catalogue(read_settings()).load("opnai:text-embedding-3-small")
    with pytest.raises(SettingsError, match="base_url is not an address"):
        await load_provider("mine", "m", None, ModelSettings(provider="openai", base_url="localhost:8080"))


@pytest.mark.anyio
async def test_a_configured_endpoint_is_loaded_by_its_name(endpoint: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "QDRANT_MIGRATION_MODELS",
        f'{{"mine": {{"provider": "openai", "model": "nomic:latest", "base_url": "{endpoint.base_url}", "price_per_million": 0.5}}}}',
    )
    catalogue = Catalogue(read_settings())
    model = await catalogue.load("mine@32")
    assert (model.spec.name, model.spec.dimensions, model.spec.price_per_million) == ("mine@32", 32, 0.5)
    assert endpoint.requests[0].model == "nomic:latest"
    await catalogue.close()


@pytest.mark.anyio
async def test_requests_wait_for_the_configured_limit(load: Load, endpoint: OpenAIServer) -> None:
    """The probe took one of two requests; a second one passes, a third waits for the window."""
    model = await load(endpoint, requests_per_minute=2)
    await model.embed(["a"], Side.DOCUMENT)
    began = time.monotonic()
    with anyio.move_on_after(0.3) as scope:
        await model.embed(["b"], Side.DOCUMENT)
    assert scope.cancelled_caught
    assert time.monotonic() - began < 5
    assert endpoint.texts == [["a"]]


@pytest.mark.anyio
async def test_a_moody_provider_yields_every_vector_but_the_poison(load: Load) -> None:
    """Rate limit, failure, a limit on the number of texts and a poison text, all in one backfill window."""
    texts = [f"text {i}" for i in range(30)]
    texts[17] = "POISON"
    with OpenAIServer(most_texts=8) as server:
        model = await load(server)
        server.script = [refusal("slow down", 429, headers={"retry-after": "0"}), Answer(status=500, body={})]
        rows, failures = await embed_resilient(model, texts, Side.DOCUMENT, should_stop=lambda: False, sleep=_no_sleep)
    assert [failure.index for failure in failures] == [17]
    expected = await HashingEmbedder("hashing-64").embed(texts, Side.DOCUMENT)
    for index, (row, wanted) in enumerate(zip(rows, expected, strict=True)):
        assert (row is None) == (index == 17)
        assert row is None or np.allclose(row, wanted, atol=1e-6)


async def _no_sleep(_: float) -> None:
    await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
async def test_a_stop_does_not_wait_for_the_answer_to_a_request(load: Load, endpoint: OpenAIServer) -> None:
    model = await load(endpoint)
    endpoint.always = Answer(delay_s=3.0)
    with anyio.fail_after(2), pytest.raises(Interrupted):
        await embed_resilient(model, ["a"], Side.DOCUMENT, should_stop=lambda: bool(endpoint.requests))

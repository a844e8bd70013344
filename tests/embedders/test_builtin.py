"""The built-in lexical model."""

from __future__ import annotations

import sys

import anyio
import numpy as np
import pytest

from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.embedders.builtin import HashingEmbedder, is_builtin
from qdrant_model_migration.errors import BadText, NotFound
from tests.conftest import Cranfield

ODD_TEXTS = ["!?", "🙂", "🙂🙂", "-", "…" * 500, "\ud800", "a", "x" * 100_000, "日本語の文章", "\x00", "ß", " . "]


@pytest.mark.anyio
@pytest.mark.parametrize("model", ["hashing-16", "hashing-256", "hashing-256-words", "hashing-4096"])
async def test_every_text_with_a_character_gets_a_finite_unit_vector(model: str) -> None:
    vectors = await HashingEmbedder(model).embed(ODD_TEXTS, Side.DOCUMENT)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(ODD_TEXTS)), abs=1e-5)


@pytest.mark.anyio
async def test_vectors_are_the_same_in_another_process() -> None:
    """Python's own hash() would differ with every start."""
    program = (
        "import anyio\n"
        "from qdrant_model_migration.embedders.builtin import HashingEmbedder\n"
        "from qdrant_model_migration.domain.model import Side\n"
        "async def main():\n"
        "    print((await HashingEmbedder('hashing-64').embed(['a fox jumps'], Side.QUERY)).tobytes().hex())\n"
        "anyio.run(main)\n"
    )
    done = await anyio.run_process([sys.executable, "-c", program])
    here = await HashingEmbedder("hashing-64").embed(["a fox jumps"], Side.DOCUMENT)
    assert done.stdout.decode().strip() == here.tobytes().hex()


@pytest.mark.anyio
async def test_spaces_of_different_names_do_not_agree() -> None:
    """Equal size is not equal space: the -words variant has a salt of its own, as every size has."""
    text = ["wings"]
    full = await HashingEmbedder("hashing-256").embed(text, Side.DOCUMENT)
    words = await HashingEmbedder("hashing-256-words").embed(text, Side.DOCUMENT)
    larger = await HashingEmbedder("hashing-512").embed(text, Side.DOCUMENT)
    assert full.shape == words.shape
    assert abs(float(full[0] @ words[0])) < 0.9
    assert np.argmax(np.abs(words[0])) != np.argmax(np.abs(larger[0])) % 256


@pytest.mark.anyio
async def test_trigrams_bring_word_forms_together_and_words_alone_do_not() -> None:
    texts = ["migration", "migrations", "banana"]
    full = await HashingEmbedder("hashing-1024").embed(texts, Side.DOCUMENT)
    words = await HashingEmbedder("hashing-1024-words").embed(texts, Side.DOCUMENT)
    assert full[0] @ full[1] > 0.2 > full[0] @ full[2]
    assert words[0] @ words[1] == pytest.approx(0, abs=1e-6)


@pytest.mark.anyio
async def test_it_finds_the_judged_documents_better_than_chance(cranfield: Cranfield) -> None:
    """Lexical search on Cranfield: bad beside a real model, far from random (1,400 documents)."""
    documents = [document for document in cranfield.documents if document.text.strip()]
    model = HashingEmbedder("hashing-1024")
    vectors = await model.embed([document.text for document in documents], Side.DOCUMENT)
    hits = 0
    for query, grades in cranfield.qrels.items():
        found = await model.embed([cranfield.queries[query]], Side.QUERY)
        best = np.argsort(-(vectors @ found[0]))[:10]
        hits += any(str(documents[i].id) in grades for i in best)
    assert hits / len(cranfield.qrels) > 0.5


@pytest.mark.anyio
@pytest.mark.parametrize("blank", ["", "  \n\t"])
async def test_a_blank_text_is_refused_by_position(blank: str) -> None:
    with pytest.raises(BadText, match=r"Text 1 is blank \(1 of 3"):
        await HashingEmbedder("hashing-16").embed(["a", blank, "b"], Side.DOCUMENT)


@pytest.mark.parametrize("model", ["hashing-8", "hashing-8192", "hashing", "hashing-256-letters", "hashing-x"])
def test_a_size_that_does_not_exist_is_answered_with_the_range(model: str) -> None:
    with pytest.raises(NotFound, match="16 to 4096"):
        HashingEmbedder(model)


@pytest.mark.anyio
async def test_its_note_says_lexical_and_tokens_are_words() -> None:
    model = HashingEmbedder("HASHING-256")
    assert model.spec.name == "builtin:hashing-256"
    assert "lexical only" in (model.spec.note or "")
    assert await model.count_tokens(["two words", "don't"]) == [2, 2]
    assert is_builtin("hashing-256-words")
    assert not is_builtin("bge-small")
    await model.close()

"""Which words must stand before a text for a well-known model to be at its best?

FastEmbed adds none (fact 7), except that jina-embeddings-v3 selects its adapter by the side. Vectors that an application made
with plain FastEmbed therefore carry none: to match them, an entry of QDRANT_MIGRATION_MODELS sets both prefixes to "".
"""

from __future__ import annotations

from dataclasses import dataclass

from qdrant_model_migration.settings import ModelSettings


@dataclass(frozen=True, kw_only=True)
class Prefixes:
    document: str = ""
    query: str = ""


_SEARCH = Prefixes(query="Represent this sentence for searching relevant passages: ")

# Checked 2026-11-22, each against the publisher's own words as far as they could be had offline:
# - bge: table "query instruction for retrieval" in FlagOpen/FlagEmbedding, examples/inference/embedder/README.md at 7ccaf64.
#   For v1.5 it is optional (FastEmbed's description: "not so necessary"); the publisher still recommends it for short queries.
# - e5: model card of intfloat/multilingual-e5-large ("each input text should start with 'query: ' or 'passage: '").
# - nomic: model card of nomic-ai/nomic-embed-text-v1.5 (task instruction prefixes search_document, search_query).
# - arctic: model cards of Snowflake/snowflake-arctic-embed-* (1.x; 2.0 uses "query: " and is not in FastEmbed).
# - mxbai: model card of mixedbread-ai/mxbai-embed-large-v1 (queries only).
# - embeddinggemma, Qwen3: descriptions in FastEmbed 0.9.1 itself (text/builtin_sentence_embedding.py,
#   text/last_token_normalized_embedding.py); Qwen3's task sentence is the one of its model card.
# - stella: prompt s2p_query of NovaSearch/stella_en_400M_v5, which FastEmbed 0.9.1 says its document model's queries need.
_BY_BEGINNING: tuple[tuple[str, Prefixes], ...] = (
    ("baai/bge-small-zh", Prefixes(query="为这个句子生成表示以用于检索相关文章：")),
    ("baai/bge-", _SEARCH),
    ("mixedbread-ai/mxbai-embed-large-v1", _SEARCH),
    ("snowflake/snowflake-arctic-embed-", _SEARCH),
    ("intfloat/multilingual-e5-", Prefixes(document="passage: ", query="query: ")),
    ("intfloat/e5-", Prefixes(document="passage: ", query="query: ")),
    ("nomic-ai/nomic-embed-text-v1", Prefixes(document="search_document: ", query="search_query: ")),
    ("google/embeddinggemma-300m", Prefixes(document="title: none | text: ", query="task: search result | query: ")),
    (
        "qwen/qwen3-embedding-",
        Prefixes(query="Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"),
    ),
    (
        "qdrant/stella-en-400m-v5-doc",
        Prefixes(query="Instruct: Given a web search query, retrieve relevant passages that answer the query.\nQuery: "),
    ),
)


def known_prefixes(model: str) -> Prefixes:
    """Prefixes of a FastEmbed built-in; empty for a model that needs none or is unknown."""
    name = model.lower()
    for beginning, prefixes in _BY_BEGINNING:
        if name.startswith(beginning):
            return prefixes
    return Prefixes()


def chosen_prefixes(known: Prefixes, entry: ModelSettings | None) -> Prefixes:
    """The known prefixes, each replaced by what an entry of QDRANT_MIGRATION_MODELS sets, be it empty."""
    if entry is None:
        return known
    given = entry.model_fields_set
    return Prefixes(
        document=entry.document_prefix if "document_prefix" in given else known.document,
        query=entry.query_prefix if "query_prefix" in given else known.query,
    )

"""What is an embedding model to us? Its name, kind, sizes and the two sides it embeds."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from qdrant_model_migration.domain.untrusted import is_hidden
from qdrant_model_migration.errors import Refused

_FORBIDDEN = frozenset("\"'`{}<>«»")
"""In names that are written into code and sentences."""


class ModelKind(StrEnum):
    DENSE = "dense"
    SPARSE = "sparse"
    MULTIVECTOR = "multivector"


class Side(StrEnum):
    """Documents and queries are embedded by different calls: prefixes and models may differ."""

    DOCUMENT = "document"
    QUERY = "query"


class ModelName(BaseModel):
    """`provider:model[@dimensions]`; the provider is absent for names of QDRANT_MIGRATION_MODELS and bare names."""

    model_config = ConfigDict(frozen=True)

    provider: str | None
    model: str
    dimensions: int | None = None

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Split a model name.

        Raises:
            Refused: the name is blank, holds what no name of a model holds, or its `@dimensions` is not a positive integer.
        """
        name = text.strip()
        bad = sorted({c for c in name if c.isspace() or is_hidden(c) or c in _FORBIDDEN})
        if bad:
            raise Refused(f"Model {text[:100]!r} is not understood: the name of a model holds no {', '.join(map(repr, bad[:5]))}.")
        dimensions: int | None = None
        if "@" in name:
            name, _, tail = name.rpartition("@")
            if not tail.isdigit() or int(tail) < 1:
                raise Refused(f"Model {text!r} is not understood: behind '@' stands {tail!r}, not a number of dimensions.")
            dimensions = int(tail)
        provider, colon, model = name.partition(":")
        if not colon:
            provider, model = "", name
        if not model.strip():
            raise Refused(
                f"Model {text!r} is not understood. A model is written 'provider:model', for example 'fastembed:BAAI/bge-small-en-v1.5'."
            )
        return cls(provider=provider or None, model=model, dimensions=dimensions)

    def __str__(self) -> str:
        head = f"{self.provider}:" if self.provider else ""
        tail = f"@{self.dimensions}" if self.dimensions else ""
        return f"{head}{self.model}{tail}"


class ModelSpec(BaseModel):
    """A model as it was found usable; recorded with the migration and in the target's metadata."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="canonical `provider:model[@dimensions]` or configured name")
    kind: ModelKind = ModelKind.DENSE
    dimensions: int | None = Field(default=None, description="measured on a real vector; None for sparse models")
    distance: str = Field(default="Cosine", description="Qdrant's name of the distance the model was trained for")
    max_tokens: int | None = Field(default=None, description="longer texts are cut by the model")
    is_normalized: bool = Field(default=True, description="whether vectors have unit length as they come")
    document_prefix: str = ""
    query_prefix: str = ""
    fingerprint: str | None = Field(default=None, description="sha256 of the model file, first 16 hex digits; None for endpoints")
    price_per_million: float | None = Field(default=None, description="USD per million tokens, as configured")
    is_local: bool = Field(default=True, description="whether texts stay on this machine")
    note: str | None = Field(default=None, description="what a person must know, for example that it is lexical only")
    native_dimensions: int | None = Field(default=None, description="what the model gives before it is cut to `dimensions`; None: not cut")
    modifier: str | None = Field(default=None, description="what Qdrant must do to sparse values when it searches: `idf` for BM25")
    options: dict[str, str | int | float | bool] = Field(
        default={}, description="of BM25: language, tokenizer, k, b and avg_len as used; the query side needs the same"
    )
    is_server_side: bool = Field(default=False, description="whether the Qdrant server computes the vectors (models.Document)")


_MAKES_THE_VECTORS = ("dimensions", "fingerprint", "options", "document_prefix", "max_tokens")


def unlike_planned(planned: ModelSpec, now: ModelSpec) -> str | None:
    """Where a loaded model makes other vectors of documents than the one that was planned with, for a person; None: nowhere that is recorded."""
    pairs = [(field, getattr(planned, field), getattr(now, field)) for field in _MAKES_THE_VECTORS]
    return "; ".join(f"{field} {new!r} instead of {old!r}" for field, old, new in pairs if new != old) or None

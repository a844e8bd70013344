"""What are the eight strategies? Pure data: the tables of README.md and SKILL.md are generated from it, the rules and operations read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qdrant_model_migration.domain.model import ModelKind

NEW_COLLECTION = "A new collection beside the old one (new_collection)"
SIDE_BY_SIDE = "Side by side, for A/B tests (side_by_side, named_vector)"
HYBRID = "From dense to hybrid search (add_sparse, add_multivector)"
SMALLER = "Smaller vectors without re-embedding (truncate, requantize)"
MAPPING = "Mapping instead of re-embedding (linear_map)"


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A named placement, and the one recipe that is made; every other vector field is copied, or stays where it is."""

    name: str
    does: str
    """In one clause behind 'it': what becomes of the vectors."""
    placement: Literal["new_collection", "in_place", "either"]
    """`either`: in place where the server can add a vector field to a collection (1.18), else a new collection."""
    made: Literal["embed", "truncate", "linear_map"] | None
    """How the made field gets its values; None where only the configuration changes."""
    stage: Literal["insert", "fill"]
    """Whether the made value is written with its point, or afterwards by a guarded vector update. Of `either` it is the stage
    in a new collection: in place, a field is always filled. Without a made field it has no meaning."""
    adds_field: bool
    """Whether the made field stands beside the old one; else it replaces it."""
    model_kind: ModelKind | None
    """The kind of model its made values are those of; None where no model is concerned."""
    needs_text: bool
    work: str
    """Placement and recipes in words, for the tables."""
    needs: str
    when: str
    guidance: str
    """Title of the section of SKILL.md that explains it."""


_ALL = (
    Strategy(
        name="new_collection",
        does="embeds a dense field anew",
        placement="new_collection",
        made="embed",
        stage="insert",
        adds_field=False,
        model_kind=ModelKind.DENSE,
        needs_text=True,
        work="new collection; the replaced field is embedded, the others are copied",
        needs="disk for a second collection",
        when="the ordinary case (blue-green), on any server version; also to another server",
        guidance=NEW_COLLECTION,
    ),
    Strategy(
        name="side_by_side",
        does="adds a second dense model beside the first",
        placement="new_collection",
        made="embed",
        stage="fill",
        adds_field=True,
        model_kind=ModelKind.DENSE,
        needs_text=True,
        work="new collection; the old field is copied under its old name, the new field is embedded afterwards",
        needs="room for both vectors",
        when="A/B; readers that change one by one; writers that cannot dual-write; server <= 1.17",
        guidance=SIDE_BY_SIDE,
    ),
    Strategy(
        name="named_vector",
        does="adds a second dense model beside the first",
        placement="in_place",
        made="embed",
        stage="fill",
        adds_field=True,
        model_kind=ModelKind.DENSE,
        needs_text=True,
        work="in place; a new named vector field is added and embedded",
        needs="server >= 1.18",
        when="the same, without the copy",
        guidance=SIDE_BY_SIDE,
    ),
    Strategy(
        name="add_sparse",
        does="adds sparse vectors for hybrid search",
        placement="either",
        made="embed",
        stage="insert",
        adds_field=True,
        model_kind=ModelKind.SPARSE,
        needs_text=True,
        work="in place on >= 1.18, else a new collection with the dense vectors copied; BM25 or SPLADE vectors are computed",
        needs="`modifier=idf` for BM25; server >= 1.15.2 for BM25 in the server",
        when="dense to hybrid",
        guidance=HYBRID,
    ),
    Strategy(
        name="add_multivector",
        does="adds token vectors for reranking",
        placement="either",
        made="embed",
        stage="insert",
        adds_field=True,
        model_kind=ModelKind.MULTIVECTOR,
        needs_text=True,
        work="as `add_sparse`, with token vectors; on disk, HNSW off",
        needs="disk, RAM",
        when="ColBERT-like reranking",
        guidance=HYBRID,
    ),
    Strategy(
        name="truncate",
        does="shortens the vectors of the same model",
        placement="new_collection",
        made="truncate",
        stage="insert",
        adds_field=False,
        model_kind=ModelKind.DENSE,
        needs_text=False,
        work="new collection; the stored vectors are cut and renormalised",
        needs="a Matryoshka model, or a comparison that passed; queries with `dimensions=n`",
        when="smaller vectors, same model",
        guidance=SMALLER,
    ),
    Strategy(
        name="linear_map",
        does="approximates the vectors of another model",
        placement="new_collection",
        made="linear_map",
        stage="insert",
        adds_field=False,
        model_kind=ModelKind.DENSE,
        needs_text=True,
        work="new collection; the stored vectors are mapped by a matrix fitted on a sample",
        needs="a sample embedded with the new model, and a recall above the floor on its held-out part",
        when="100M+ points",
        guidance=MAPPING,
    ),
    Strategy(
        name="requantize",
        does="changes quantization, not the model",
        placement="in_place",
        made=None,
        stage="fill",
        adds_field=False,
        model_kind=None,
        needs_text=False,
        work="in place, configuration only: scalar, product, binary or off",
        needs="a server (the embedded database does not quantize)",
        when="RAM or speed",
        guidance=SMALLER,
    ),
)

STRATEGY: dict[str, Strategy] = {s.name: s for s in _ALL}
"""By name, in the order of the tables."""

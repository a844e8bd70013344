"""What may be compared on a sample? A dense model, `dense + sparse` (fused) or `dense > late` (reranked), as a person writes it; pure."""

from __future__ import annotations

from dataclasses import dataclass

from qdrant_model_migration.domain.comparison_sides import How
from qdrant_model_migration.domain.model import ModelKind
from qdrant_model_migration.errors import Refused

SIGNS: dict[str, How] = {"+": "hybrid", ">": "rerank"}
_KIND: dict[How, ModelKind] = {"hybrid": ModelKind.SPARSE, "rerank": ModelKind.MULTIVECTOR}
_WRITTEN = (
    "Write 'dense', 'dense + sparse' (fused) or 'dense > late' (reranked by a multivector model), with a blank on both sides of the sign."
)


@dataclass(frozen=True, kw_only=True)
class CandidateName:
    """A candidate as it was written; `added` is what the dense search is fused with, or reranked by."""

    dense: str
    how: How = "dense"
    added: str | None = None

    @property
    def models(self) -> list[str]:
        return [self.dense] if self.added is None else [self.dense, self.added]

    def __str__(self) -> str:
        sign = next((sign for sign, how in SIGNS.items() if how == self.how), "")
        return self.dense if self.added is None else f"{self.dense} {sign} {self.added}"


def parsed(text: str) -> CandidateName:
    """Take a candidate apart. Names of models hold no blanks, but may hold a '+': a sign is one that stands alone.

    Raises:
        Refused: nothing stands there, the sign is unknown, or there are more than two parts.
    """
    parts = text.split()
    if len(parts) == 1 and ">" not in text:
        return CandidateName(dense=parts[0])
    signs = parts[1::2]
    unknown = [sign for sign in signs if sign not in SIGNS]
    if len(parts) >= 3 and len(parts) % 2 and not unknown:
        if len(parts) == 3:
            return CandidateName(dense=parts[0], how=SIGNS[parts[1]], added=parts[2])
        why = f"has {len(signs) + 1} parts, and a search on a sample is made of one or two"
    elif len(parts) == 3:
        why = f"holds the sign {unknown[0]!r}, which is none"
    else:
        why = "is not understood"
    raise Refused(f"Nothing was compared: the candidate {text[:200]!r} {why}. {_WRITTEN}")


def check_kinds(name: CandidateName, dense: ModelKind, added: ModelKind) -> None:
    """See that the two models of a candidate go together.

    Raises:
        Refused: they do not; with the way to write what may have been meant.
    """
    wanted = _KIND[name.how]
    if dense is ModelKind.DENSE and added is wanted:
        return
    if dense is not ModelKind.DENSE:
        why = f"begins with {name.dense!r}, a {dense.value} model; the dense one comes first"
    elif added is ModelKind.DENSE:
        why = "names two dense models, whose searches are not put together; give them as two candidates"
    else:
        sign = "+" if added is ModelKind.SPARSE else ">"
        why = f"takes {name.added!r}, a {added.value} model, where a {wanted.value} one belongs: '{name.dense} {sign} {name.added}'"
    raise Refused(f"Nothing was compared: the candidate {str(name)!r} {why}. {_WRITTEN}")

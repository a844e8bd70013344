"""Every exception of the project.

    MigrationError
    ├── SettingsError           a setting is missing or malformed; the message names the variable
    ├── ConnectionFailed        no answer from Qdrant, or a transient fault that outlived its retries
    │   └── RateLimited         429; `retry_after_s` when the server said so
    ├── AccessDenied            no key, a wrong key, or a key without the right
    ├── NotFound                a collection, alias, migration or model that does not exist
    ├── AlreadyExists           a name that is taken
    ├── BatchTooLarge           the request must be split, not repeated
    ├── RequestRejected         Qdrant refused the request itself (400)
    ├── Unsupported             the server's version or mode cannot do it
    ├── Refused                 the tool will not: a gate, a phase, a bad argument
    ├── EmbeddingError          the model failed
    │   ├── ModelNotUsable      it cannot be loaded or its answers are malformed
    │   ├── TransientEmbedding  worth another try; `retry_after_s` when the provider said so
    │   └── BadText             these texts, not the model, are the reason
    ├── LeaseLost               another driver holds the migration
    └── Interrupted             the driver was asked to stop

A message states the fact, the numbers and the next step. It never holds an address or a key.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class MigrationError(Exception):
    """Base of every error a person may see; its text is the whole answer."""


class SettingsError(MigrationError):
    """A setting is missing or malformed."""


class ConnectionFailed(MigrationError):
    """Qdrant did not answer, or went on failing after the bounded retries."""


class RateLimited(ConnectionFailed):
    """Qdrant or a provider asked to slow down."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AccessDenied(MigrationError):
    """The key is absent, wrong or lacks a right."""


class NotFound(MigrationError):
    """Something named does not exist."""

    @classmethod
    def named(cls, kind: str, name: str, known: Iterable[str], effect: str = "Nothing was changed") -> NotFound:
        """Says what is missing and lists near misses, else the first names there are."""
        names = sorted(known)
        near = get_close_matches(name, names, n=5, cutoff=0.5)
        if near:
            hint = f"Did you mean {', '.join(repr(n) for n in near)}?"
        elif names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            hint = f"There are: {', '.join(repr(n) for n in names[:10])}{more}."
        else:
            hint = "There are none."
        return cls(f"{effect}: there is no {kind} {name!r}. {hint}")


class AlreadyExists(MigrationError):
    """A name is taken."""


class BatchTooLarge(MigrationError):
    """The request exceeds a limit of the server or the provider and must be split."""


class RequestRejected(MigrationError):
    """Qdrant refused the request as malformed."""


class Unsupported(MigrationError):
    """This server's version or mode cannot do what was asked."""


class Refused(MigrationError):
    """A gate, a phase or an argument forbids the call; nothing was changed."""


class EmbeddingError(MigrationError):
    """The embedding model failed."""


class ModelNotUsable(EmbeddingError):
    """The model cannot be loaded, or answers with vectors that cannot be stored."""


class TransientEmbedding(EmbeddingError):
    """The provider is busy or unreachable; the same texts may succeed later."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BadText(EmbeddingError):
    """The model refuses these texts; bisecting finds the ones at fault."""


class LeaseLost(MigrationError):
    """Another driver took the migration over, or the lease could not be renewed in time."""


class Interrupted(MigrationError):
    """The driver was asked to stop; what is written is recorded and will be continued."""

"""Which Qdrant, which models, which limits? The settings as they are understood, and what they allow."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from qdrant_model_migration.errors import NotFound, Refused, Unsupported

DEFAULT_LEDGER = "_model_migrations"
_OF_THE_SYSTEM = (Path("/proc"), Path("/sys"), Path("/dev"))
"""What lies there is no file that anybody meant, though it may look like one: a process's environment, for example, with the keys in it."""


class Connection(BaseModel):
    """One Qdrant: a server by its address, or the embedded database by its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    url: str | None = None
    path: Path | None = None
    api_key: SecretStr | None = None
    prefer_grpc: bool = False
    grpc_port: int = 6334

    @property
    def is_embedded(self) -> bool:
        return self.url is None


class ModelSettings(BaseModel):
    """One entry of QDRANT_MIGRATION_MODELS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: str = "fastembed"
    model: str | None = None
    path: Path | None = None
    """Directory of an ONNX model with its tokenizer (provider fastembed)."""
    file: str = "model.onnx"
    output_name: str | None = None
    base_url: str | None = None
    key_variable: str | None = None
    dimensions: int | None = Field(default=None, ge=1)
    distance: Literal["Cosine", "Dot", "Euclid", "Manhattan"] = "Cosine"
    pooling: Literal["mean", "cls", "last_token", "none"] = "mean"
    normalize: bool = True
    document_prefix: str = ""
    query_prefix: str = ""
    max_tokens: int | None = Field(default=None, ge=1)
    price_per_million: float | None = Field(default=None, ge=0)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    language: str | None = None
    """Of BM25: whose stop words and stemmer."""
    tokenizer: str | None = None
    """Of BM25 in the server: word, whitespace, prefix or multilingual. FastEmbed's own is always 'word'."""


class RaySettings(BaseModel):
    """The Ray cluster on which executor='ray' works, and what each of its actors gets."""

    model_config = ConfigDict(frozen=True)

    address: str | None = None
    actors: int | None = Field(default=None, ge=1)
    """As many as the cluster has room for when left out."""
    actor_cpus: float = Field(default=1.0, ge=0)
    actor_gpus: float = Field(default=0.0, ge=0)


class Settings(BaseModel):
    """Validated settings. Secrets print as asterisks."""

    model_config = ConfigDict(frozen=True)

    connections: dict[str, Connection]
    models: dict[str, ModelSettings] = {}
    ledger: str = DEFAULT_LEDGER
    is_read_only: bool = False
    allowed_collections: tuple[str, ...] = ()
    allowed_directories: tuple[Path, ...] = ()
    http_token: SecretStr | None = None
    lease_s: float = 30.0
    ray: RaySettings = RaySettings()
    log_directory: Path
    is_default_location: bool = False
    """Neither QDRANT_URL nor QDRANT_PATH was set."""

    @property
    def request_timeout_s(self) -> float:
        """Under half the lease, so that a request of a dead driver is over before its successor verifies."""
        return max(0.9, self.lease_s * 0.45)

    def connection(self, name: str | None) -> Connection:
        """The connection of that name; `default` without one.

        Raises:
            NotFound: no such connection is configured.
        """
        wanted = name or "default"
        if wanted not in self.connections:
            raise NotFound.named("connection", wanted, self.connections)
        return self.connections[wanted]

    def allows(self, collection: str) -> bool:
        """Whether QDRANT_MIGRATION_ALLOWED_COLLECTIONS lets a collection be touched; without the setting all are."""
        return not self.allowed_collections or any(fnmatchcase(collection, glob) for glob in self.allowed_collections)

    def check_collection_allowed(self, collection: str, *, named: str | None = None) -> None:
        """Refuse a collection outside QDRANT_MIGRATION_ALLOWED_COLLECTIONS; `named` is what the caller called it, an alias perhaps."""
        if not self.allows(collection):
            what = (
                f"alias {named!r} leads to a collection that" if named is not None and named != collection else f"collection {collection!r}"
            )
            raise Refused(
                f"Nothing was done: {what} is not among those that QDRANT_MIGRATION_ALLOWED_COLLECTIONS allows "
                f"({', '.join(self.allowed_collections)}). Name one that is, or have whoever runs this server change the setting."
            )

    @contextmanager
    def opened_file(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file named in an argument for reading.

        What was checked may be exchanged before it is opened: a link is not followed any more, nothing is waited for, and what was opened is looked at again.

        Raises:
            Refused: as `allowed_file`; or it cannot be read.
        """
        path = self.allowed_file(name)
        flags = (
            os.O_RDONLY
            | getattr(os, "O_NOFOLLOW", 0)
            | getattr(os, "O_NONBLOCK", 0)
            | getattr(os, "O_CLOEXEC", 0)
            | getattr(os, "O_BINARY", 0)
        )
        try:
            number = os.open(path, flags)
        except OSError as error:
            raise Refused(
                f"File {name!r} was not read: {error.strerror or 'it cannot be opened'}. Nothing was changed; see to the file and call again."
            ) from None
        with os.fdopen(number, "rb") as stream:
            if not stat.S_ISREG(os.fstat(number).st_mode) or self.allowed_file(name) != path:
                raise Refused(
                    f"File {name!r} was not read: it was exchanged while it was opened. Nothing was changed; see to the file and call again."
                )
            yield stream

    def allowed_file(self, name: str) -> Path:
        """Resolve a file named in an argument, links included, inside the allowed directories.

        Raises:
            Refused: no directory is allowed, the file lies outside them, or it does not exist.
        """
        if not self.allowed_directories:
            raise Refused(
                f"File {name!r} was not read: no directory is allowed. Set QDRANT_MIGRATION_ALLOWED_DIRECTORIES to the folders whose files may be read."
            )
        candidates = [Path(name)] if Path(name).is_absolute() else [folder / name for folder in self.allowed_directories]
        for candidate in candidates:
            try:
                path = candidate.resolve()
                is_inside = any(path.is_relative_to(folder) for folder in self.allowed_directories)
                if is_inside and not any(path.is_relative_to(part) for part in _OF_THE_SYSTEM) and path.is_file():
                    return path
            except (OSError, ValueError, RuntimeError):
                continue  # no file can have this name: too long, a NUL byte, links in a circle
        raise Refused(
            f"File {name!r} was not read: it is not a file inside an allowed directory. "
            f"Allowed by QDRANT_MIGRATION_ALLOWED_DIRECTORIES: {', '.join(str(p) for p in self.allowed_directories)}."
        )


def check_ray(settings: RaySettings) -> None:
    """Whether ranges can be worked by Ray from here.

    Raises:
        Unsupported: Ray is not installed.
        Refused: no cluster is named.
    """
    if find_spec("ray") is None:
        raise Unsupported("Ray is not installed here. Install qdrant-model-migration[ray], or use executor='local'.")
    if settings.address is None:
        raise Refused(
            "No Ray cluster is named: set QDRANT_MIGRATION_RAY_ADDRESS ('auto' on a node of the cluster, or ray://HOST:10001), or use executor='local'."
        )

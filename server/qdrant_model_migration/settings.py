"""The only reader of the environment: which Qdrant, which models, which limits."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from qdrant_model_migration.errors import NotFound, Refused, SettingsError

DEFAULT_LEDGER = "_model_migrations"
HOME = Path("~/.qdrant-model-migration")
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


class _Environment(BaseSettings):
    """The variables as they stand, before they are understood."""

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True)

    qdrant_url: str | None = None
    qdrant_api_key: SecretStr | None = None
    qdrant_prefer_grpc: bool = False
    qdrant_grpc_port: int = Field(default=6334, ge=1, le=65535)
    qdrant_path: Path | None = None
    qdrant_migration_connections: str | None = None
    qdrant_migration_models: str | None = None
    qdrant_migration_ledger: str = DEFAULT_LEDGER
    qdrant_migration_read_only: bool = False
    qdrant_migration_allowed_collections: str | None = None
    qdrant_migration_allowed_directories: str | None = None
    qdrant_migration_http_token: SecretStr | None = None
    qdrant_migration_lease_seconds: float = Field(default=30.0, ge=2, le=600)
    qdrant_migration_log_directory: Path | None = None
    qdrant_migration_embedding_threads: int | None = Field(default=None, ge=1, le=1024)


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


_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


def _check_spelling(environment: Mapping[str, str]) -> None:
    """Refuse a variable that is nearly one of ours: a misspelt safety switch must not be ignored."""
    known = [name.upper() for name in _Environment.model_fields]
    for name in environment:
        if name.startswith("QDRANT_MIGRATION_") and name not in known and (near := get_close_matches(name, known, n=1, cutoff=0.85)):
            raise SettingsError(f"{name} is not a setting. Did you mean {near[0]}? Nothing is read from a misspelt name.")


def read_settings() -> Settings:
    """Read and validate the environment.

    Raises:
        SettingsError: a variable is malformed; the message names it and never repeats a secret.
    """
    _check_spelling(os.environ)
    try:
        env = _Environment()
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        variable = str(first["loc"][0]).upper() if first["loc"] else "a setting"
        raise SettingsError(f"{variable} cannot be used: {first['msg']}.") from None
    url = _checked_url("QDRANT_URL", env.qdrant_url)
    path = env.qdrant_path.expanduser().resolve() if env.qdrant_path else None
    is_default_location = url is None and path is None
    home = HOME.expanduser()
    default = Connection(
        name="default",
        url=url,
        path=None if url else (path or home / "qdrant"),
        api_key=env.qdrant_api_key,
        prefer_grpc=env.qdrant_prefer_grpc,
        grpc_port=env.qdrant_grpc_port,
    )
    connections = {"default": default, **_connections(env.qdrant_migration_connections, os.environ)}
    return Settings(
        connections=connections,
        models=_models(env.qdrant_migration_models),
        ledger=env.qdrant_migration_ledger,
        is_read_only=env.qdrant_migration_read_only,
        allowed_collections=_globs(env.qdrant_migration_allowed_collections),
        allowed_directories=_directories(env.qdrant_migration_allowed_directories),
        http_token=env.qdrant_migration_http_token,
        lease_s=env.qdrant_migration_lease_seconds,
        log_directory=(env.qdrant_migration_log_directory or home / "logs").expanduser().resolve(),
        is_default_location=is_default_location,
    )


def secret_from_variable(variable: str, used_by: str) -> SecretStr:
    """The value of a variable that a setting names as holding a key."""
    value = os.environ.get(variable, "")
    if not value:
        raise SettingsError(f"{used_by} reads its key from the variable {variable}, which is not set.")
    return SecretStr(value)


_HOLDS_A_SECRET = re.compile(r"((API|ACCESS|PRIVATE|SECRET)_?KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_MAY_HOLD_ONE = re.compile(r"KEY$", re.IGNORECASE)
_IDENTIFIER = re.compile(r"[a-z_]+")
"""What is called a key and looks like this is one of a payload: CONTENT_KEY=page_content of LangChain, for example."""
_NAMED = re.compile(r'"key_variable"\s*:\s*"([A-Za-z_][A-Za-z0-9_]*)"')
_PASSWORD = re.compile(r"://[^\s/@:\"]{0,200}:([^\s/@\"]{1,200})@")
_LEAST_SECRET_CHARS = 12
"""A shorter one may be a word, which stands in names as well; to hide it there would change what they say."""


def known_secrets() -> tuple[str, ...]:
    """Every key and token of the environment, the longest first: those named like one, and those that a setting names as one."""
    settings = os.environ.get("QDRANT_MIGRATION_MODELS", "") + os.environ.get("QDRANT_MIGRATION_CONNECTIONS", "")
    named = set(_NAMED.findall(settings))
    found = {value.strip() for name, value in os.environ.items() if name in named or _HOLDS_A_SECRET.search(name)}
    found |= {v.strip() for name, v in os.environ.items() if _MAY_HOLD_ONE.search(name) and not _IDENTIFIER.fullmatch(v.strip())}
    # The address of a private endpoint may hold a password.
    found |= {password for value in os.environ.values() for password in _PASSWORD.findall(value)}
    return tuple(sorted((value for value in found if len(value) >= _LEAST_SECRET_CHARS), key=len, reverse=True))


def redacted(text: str, secrets: tuple[str, ...] | None = None) -> str:
    """A text without any of the keys: a server, a proxy or a library may repeat what it was sent."""
    for secret in known_secrets() if secrets is None else secrets:
        if secret in text:
            text = text.replace(secret, "***")
    return text


class RedactingFormatter(logging.Formatter):
    """Lines of a log, tracebacks included, without keys."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def log_to_stderr(level: int = logging.INFO) -> None:
    """Logs never go to stdout: under stdio that is the protocol's."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for noisy in ("httpx", "httpcore", "mcp", "stamina"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))


def embedding_threads() -> int | None:
    """Threads that a model of this machine may use; None: as many as there are cores."""
    return _Environment().qdrant_migration_embedding_threads


def child_environment() -> dict[str, str]:
    """The environment a worker process inherits; keys travel here, never on a command line."""
    return dict(os.environ)


def _checked_url(variable: str, url: str | None) -> str | None:
    if url is None:
        return None
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        # An IPv6 address without its bracket; the text of the error would repeat the address.
        raise SettingsError(f"{variable} is not an address: a name or number of a host in it is malformed.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(
            f"{variable} is not an address: it must begin with http:// or https:// and name a host, for example http://localhost:6333."
        )
    if parts.username or parts.password:
        raise SettingsError(f"{variable} must not hold a user name or password; put the key into QDRANT_API_KEY.")
    try:
        _ = parts.port
    except ValueError:
        raise SettingsError(f"{variable} has a port that is not a number between 1 and 65535.") from None
    return url.strip().rstrip("/")


def _json_object(variable: str, text: str | None) -> dict[str, dict[str, object]]:
    if not text:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise SettingsError(f"{variable} is not JSON: {error.msg} at character {error.pos}.") from None
    if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
        raise SettingsError(f'{variable} must be a JSON object of objects, for example {{"name": {{...}}}}.')
    return value


def _connections(text: str | None, environment: Mapping[str, str]) -> dict[str, Connection]:
    found: dict[str, Connection] = {}
    for name, entry in _json_object("QDRANT_MIGRATION_CONNECTIONS", text).items():
        where = f"QDRANT_MIGRATION_CONNECTIONS[{name!r}]"
        fields = dict(entry)
        if "api_key" in fields:
            raise SettingsError(f"{where} must not hold a key; name the variable that does with 'key_variable'.")
        variable = fields.pop("key_variable", None)
        if variable is not None:
            if not isinstance(variable, str) or not _VARIABLE.match(variable):
                raise SettingsError(f"{where}: 'key_variable' must be the name of an environment variable.")
            if not environment.get(variable):
                raise SettingsError(f"{where} reads its key from the variable {variable}, which is not set.")
            fields["api_key"] = environment[variable]
        if name == "default":
            raise SettingsError(f"{where}: the connection 'default' is set by QDRANT_URL or QDRANT_PATH.")
        if ("url" in fields) == ("path" in fields):
            raise SettingsError(f"{where} needs exactly one of 'url' and 'path'.")
        fields["name"] = name
        try:
            connection = Connection.model_validate(fields)
        except ValidationError as error:
            raise SettingsError(_first_problem(where, error)) from None
        _checked_url(f"{where}.url", connection.url)
        found[name] = connection
    return found


def _models(text: str | None) -> dict[str, ModelSettings]:
    found: dict[str, ModelSettings] = {}
    for name, entry in _json_object("QDRANT_MIGRATION_MODELS", text).items():
        where = f"QDRANT_MIGRATION_MODELS[{name!r}]"
        if any("key" in key and key != "key_variable" for key in entry):
            raise SettingsError(f"{where} must not hold a key; name the variable that does with 'key_variable'.")
        try:
            found[name] = ModelSettings.model_validate(entry)
        except ValidationError as error:
            raise SettingsError(_first_problem(where, error)) from None
        _check_base_url(where, found[name].base_url)
    return found


def _check_base_url(where: str, url: str | None) -> None:
    try:
        password = urlsplit(url or "").password
    except ValueError:
        raise SettingsError(f"{where}: base_url is not an address; it begins with http:// or https:// and names a host.") from None
    if password and len(password) < _LEAST_SECRET_CHARS:
        raise SettingsError(
            f"{where}: the password in base_url has fewer than {_LEAST_SECRET_CHARS} characters, and so short a one is not hidden in answers and logs. "
            "Take a longer one, or name the variable that holds a key with 'key_variable'."
        )


def _globs(text: str | None) -> tuple[str, ...]:
    found = tuple(glob.strip() for glob in (text or "").split(",") if glob.strip())
    if text is not None and not found:
        # No glob would mean that every collection is allowed.
        raise SettingsError(
            "QDRANT_MIGRATION_ALLOWED_COLLECTIONS is set and names no collection. Name some, for example 'docs*,faq', or unset it to allow all."
        )
    return found


def _directories(text: str | None) -> tuple[Path, ...]:
    folders: list[Path] = []
    for part in (text or "").split(os.pathsep):
        if not part.strip():
            continue
        folder = Path(part.strip()).expanduser()
        if not folder.is_dir():
            raise SettingsError(f"QDRANT_MIGRATION_ALLOWED_DIRECTORIES names {str(folder)!r}, which is not a directory.")
        folders.append(folder.resolve())
    return tuple(folders)


def _first_problem(where: str, error: ValidationError) -> str:
    first = error.errors(include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{where}: {field}: {first['msg']}."

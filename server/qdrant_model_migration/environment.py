"""What does the environment say: which Qdrant, which models, which limits? A malformed variable is named, and a secret never repeated."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from qdrant_model_migration.errors import SettingsError
from qdrant_model_migration.redaction import LEAST_SECRET_CHARS
from qdrant_model_migration.settings import DEFAULT_LEDGER, Connection, ModelSettings, RaySettings, Settings

HOME = Path("~/.qdrant-model-migration")


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
    qdrant_migration_log_format: Literal["text", "json"] = "text"
    qdrant_migration_embedding_threads: int | None = Field(default=None, ge=1, le=1024)
    qdrant_migration_ray_address: str | None = None
    qdrant_migration_ray_actors: int | None = Field(default=None, ge=1, le=10_000)
    qdrant_migration_ray_actor_cpus: float = Field(default=1.0, ge=0, le=1024)
    qdrant_migration_ray_actor_gpus: float = Field(default=0.0, ge=0, le=64)


_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


def check_spelling(environment: Mapping[str, str]) -> None:
    """Refuse a variable that is nearly one of ours: a misspelt safety switch must not be ignored.

    Raises:
        SettingsError: names the variable, and the one that is meant.
    """
    known = [name.upper() for name in _Environment.model_fields]
    for name in environment:
        if name.startswith("QDRANT_MIGRATION_") and name not in known and (near := get_close_matches(name, known, n=1, cutoff=0.85)):
            raise SettingsError(f"{name} is not a setting. Did you mean {near[0]}? Nothing is read from a misspelt name.")


def read_settings() -> Settings:
    """Read and validate the environment.

    Raises:
        SettingsError: a variable is malformed; the message names it and never repeats a secret.
    """
    check_spelling(os.environ)
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
        ray=RaySettings(
            address=env.qdrant_migration_ray_address,
            actors=env.qdrant_migration_ray_actors,
            actor_cpus=env.qdrant_migration_ray_actor_cpus,
            actor_gpus=env.qdrant_migration_ray_actor_gpus,
        ),
        log_directory=(env.qdrant_migration_log_directory or home / "logs").expanduser().resolve(),
        is_default_location=is_default_location,
    )


def secret_from_variable(variable: str, used_by: str) -> SecretStr:
    """The value of a variable that a setting names as holding a key."""
    value = os.environ.get(variable, "")
    if not value:
        raise SettingsError(f"{used_by} reads its key from the variable {variable}, which is not set.")
    return SecretStr(value)


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
    if password and len(password) < LEAST_SECRET_CHARS:
        raise SettingsError(
            f"{where}: the password in base_url has fewer than {LEAST_SECRET_CHARS} characters, and so short a one is not hidden in answers and logs. "
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
